// The reference: every route of openapi.json with the fields of its request. Text reaches the page through textContent.
import { api } from "./api.js";

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

// A schema in a few words: "integer or null", "list of string", "ChatMessage".
function words(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(words).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return "list of " + words(schema.items || {});
  return schema.type || "anything";
}

function fields(schema) {
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([name, field]) => {
    const value = field.default === undefined ? "" : JSON.stringify(field.default);
    return element("tr", "", element("td", name + (required.has(name) ? " *" : "")), element("td", words(field)), element("td", value));
  });
  const head = element("tr", "", ...["field (* = needed)", "type", "default"].map((title) => element("th", title)));
  return element("table", "", element("thead", "", head), element("tbody", "", ...rows));
}

function bodies(operation, schemas) {
  const schema = operation.requestBody && operation.requestBody.content["application/json"].schema;
  if (!schema) return [];
  const refs = (schema.anyOf || [schema]).filter((one) => one.$ref).map((one) => one.$ref.split("/").pop());
  return refs.map((name) => element("details", "", element("summary", name), fields(schemas[name])));
}

const specification = await (await api("openapi.json")).json();
const { schemas } = specification.components;
const sections = Object.entries(specification.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) =>
    element("section", "", element("h2", method.toUpperCase() + " " + path), element("p", operation.description || ""), ...bodies(operation, schemas)),
  ),
);
const others = Object.entries(schemas).map(([name, schema]) => element("details", "", element("summary", name), fields(schema)));
document.getElementById("routes").replaceChildren(...sections, element("h2", "All schemas"), ...others);
