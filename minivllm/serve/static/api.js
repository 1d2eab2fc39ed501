// Talking to the server: one place that knows the key, the form of errors, and how events are framed.

let apiKey = sessionStorage.getItem("minivllm-key") || "";

export function setKey(key) {
  apiKey = key;
  sessionStorage.setItem("minivllm-key", key);
  document.dispatchEvent(new Event("key-changed"));
}

// GET without a body, POST with one. Paths are relative, so that the page also works behind a proxy's prefix.
export function api(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (apiKey) headers.Authorization = "Bearer " + apiKey;
  if (body === undefined) return fetch(path, { headers, signal });
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function refusal(response) {
  const fallback = "The server answered with status " + response.status + ".";
  const body = await response.json().catch(() => null);
  return new ServerError(response.status, (body && body.error && body.error.message) || fallback);
}

// Yields the JSON of every server-sent event until [DONE].
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The connection ended before the answer did.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new ServerError(event.error.code, event.error.message);
      yield event;
    }
  }
}
