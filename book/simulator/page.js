// The memory simulator's page: fields -> traces -> simulate() of memory.js -> pictures. The settings live in the
// address after the #, so that a link carries them. What a reader types reaches the page only as text.
"use strict";

const LABELS = {
  used: "used: holds a token",
  reserved: "reserved: will be written",
  internal: "internal: will never be written",
  external: "external: enough, but in pieces",
  free: "free",
};
const RANGES = {
  capacity: [8, 1024],
  block_size: [1, 1024],
  max_model_len: [2, 1024],
  arrival: [0, 500],
  prompt: [1, 500],
  output: [1, 200],
};
const MAX_REQUESTS = 20;
const MAX_BLOCKS = 256;
const PLAY_MS = 350;
const ROW_HEIGHT = 24;
const PRESETS = {
  "Mixed chats": {
    trace: [
      [0, 13, 17], [0, 23, 36], [0, 28, 2], [1, 6, 16], [1, 7, 12], [2, 7, 11], [2, 3, 30],
      [2, 10, 7], [2, 26, 24], [3, 20, 4], [4, 4, 29], [5, 15, 8], [6, 16, 12], [10, 21, 5],
    ],
  },
  Holes: {
    trace: [...Array(8)].map((_, i) => [0, 6, i % 2 ? 3 : 11]).concat([[1, 16, 9]]),
    capacity: 96,
    placement: "-first-fit",
  },
  "One long, seven short": { trace: [[0, 1, 50], ...Array(7).fill([0, 1, 5])] },
  "Too much for the memory": { trace: [[0, 20, 40], [0, 20, 40], [0, 20, 40], [0, 4, 10]], capacity: 128 },
};

const $ = (id) => document.getElementById(id);
const DEFAULTS = { capacity: 256, block_size: 8, max_model_len: 64, placement: "" };
const settings = { ...DEFAULTS };
let trace = PRESETS["Mixed chats"].trace; // [arrival, prompt, output] of each request
let runs = []; // of each policy: {name, result, error, byStep}
let lastStep = 0;
let step = 0;
let chosen = null; // the request whose pieces are outlined
let timer = null;

function element(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// ---- from the fields to the runs ----

function shownPolicies() {
  const place = settings.placement;
  return ["max" + place, "pow2" + place, "oracle" + place, "buddy", "paged"];
}

function requests() {
  return trace.map(([arrival, prompt, output], index) => ({ id: "r" + (index + 1), arrival, prompt, output }));
}

function run(name) {
  const { capacity, block_size: blockSize, max_model_len: maxModelLen } = settings;
  try {
    const result = simulate(requests(), name, { capacity, blockSize, maxModelLen, onlyStepLayouts: true });
    const byStep = new Map();
    for (const frame of result.frames) {
      if (!byStep.has(frame.step)) byStep.set(frame.step, { events: [] });
      if (frame.event === "step") byStep.get(frame.step).frame = frame;
      else byStep.get(frame.step).events.push(frame);
    }
    return { name, result, byStep, summary: summarize(result, capacity) };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { name, error: error.message };
  }
}

function say(refusal) {
  $("refusal").hidden = !refusal;
  $("refusal").textContent = refusal;
}

function recompute() {
  const numBlocks = settings.capacity / settings.block_size;
  const isTooFine = numBlocks > MAX_BLOCKS;
  say(isTooFine ? `this page draws at most ${MAX_BLOCKS} blocks, not ${Math.floor(numBlocks)}: raise block_size, or lower capacity` : "");
  if (isTooFine) return;
  runs = shownPolicies().map(run);
  const ends = runs.filter((each) => each.result).map((each) => each.result.frames.at(-1).step);
  lastStep = Math.max(0, ...ends);
  $("step").max = lastStep;
  buildPanels();
  showAverages();
  showPython();
  goTo(Math.min(step, lastStep));
}

// ---- one step of time ----

function goTo(number) {
  step = Math.max(0, Math.min(lastStep, number));
  $("step").value = step;
  $("step-text").textContent = `step ${step} of ${lastStep}`;
  $("step").setAttribute("aria-valuetext", $("step-text").textContent);
  for (const each of runs) if (each.result) showPanel(each);
  writeAddress();
}

function play(shallPlay) {
  clearInterval(timer);
  timer = null;
  if (shallPlay) {
    if (step === lastStep) goTo(0);
    timer = setInterval(() => (step < lastStep ? goTo(step + 1) : play(false)), PLAY_MS);
  }
  $("play").textContent = shallPlay ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", String(shallPlay));
}

// ---- panels ----

function buildPanels() {
  const panels = runs.map((each) => {
    const title = element("h2", {}, [each.name, element("span", { textContent: POLICIES[each.name] })]);
    const parts = each.error
      ? [element("p", { className: "refusal", textContent: each.error })]
      : [svg("svg", { class: "map", role: "img" }), svg("svg", { class: "curve", "aria-hidden": "true" }),
         element("p", { className: "counts" }), element("p", { className: "happened" })];
    const panel = element("article", { className: "panel" }, [title, ...parts]);
    panel.dataset.policy = each.name;
    each.panel = panel;
    return panel;
  });
  $("panels").replaceChildren(...panels);
  for (const each of runs) if (each.result) drawCurve(each);
}

function stateOf(each) {
  const found = each.byStep.get(step);
  return found ? found : { events: [], frame: each.result.empty };
}

function showPanel(each) {
  const { events, frame } = stateOf(each);
  const { usage } = frame;
  const share = (name) => `${name} ${usage[name]} (${Math.round((100 * usage[name]) / settings.capacity)} %)`;
  const counts = `${CLASSES.map(share).join(", ")}. ${frame.numRunning} running, ${frame.numWaiting} waiting.`;
  each.panel.querySelector(".counts").textContent = counts;
  each.panel.querySelector(".happened").textContent = whatHappened(each, events);
  drawMap(each, frame, `${each.name} at step ${step}, ${settings.capacity} slots: ${counts}`);
  const x = ((step + 0.5) / (lastStep + 1)) * 1000;
  const cursor = each.panel.querySelector(".cursor");
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
}

function whatHappened(each, events) {
  const verbs = { arrive: "arrives", admit: "admitted", preempt: "preempted", finish: "finishes" };
  const parts = events.filter((frame) => verbs[frame.event]).map((frame) => `${frame.id} ${verbs[frame.event]}`);
  if (!events.length && step > each.result.frames.at(-1).step) return "everybody has finished";
  return parts.join(", ");
}

// Every slot belongs to one run of equal slots: [start, end) of a class, of a request or of nobody.
function slotRuns(each, frame) {
  const { capacity, block_size: blockSize } = settings;
  const found = [];
  const unpaged = each.name === "paged" ? capacity - (capacity % blockSize) : capacity;
  const hole = (start, end) => {
    const kind = each.name !== "paged" && frame.usage.external > 0 ? "external" : "free";
    found.push({ start, end: Math.min(end, unpaged), kind }, { start: Math.max(start, unpaged), end, kind: "external" });
  };
  let position = 0;
  for (const piece of frame.layout) {
    hole(position, piece.start);
    const written = piece.start + piece.used;
    const promised = written + piece.reserved;
    position = piece.start + piece.size;
    const own = [[piece.start, written, "used"], [written, promised, "reserved"], [promised, position, "internal"]];
    for (const [start, end, kind] of own) found.push({ start, end, kind, id: piece.id });
  }
  hole(position, capacity);
  return found.filter((each) => each.start < each.end);
}

function drawMap(each, frame, description) {
  const picture = each.panel.querySelector(".map");
  const width = Math.max(200, Math.floor(picture.clientWidth));
  const columns = settings.capacity <= 128 ? 32 : settings.capacity <= 512 ? 64 : 128;
  const numRows = Math.ceil(settings.capacity / columns);
  const cell = width / columns;
  const nodes = [svg("title", {}, description)];
  const borders = [];
  const inRows = (start, end, draw) => {
    for (let at = start; at < end; at = (Math.floor(at / columns) + 1) * columns) {
      const stop = Math.min(end, (Math.floor(at / columns) + 1) * columns);
      draw((at % columns) * cell, Math.floor(at / columns) * ROW_HEIGHT, (stop - at) * cell);
    }
  };
  for (const { start, end, kind, id } of slotRuns(each, frame)) {
    let isFirst = true;
    inRows(start, end, (x, y, length) => {
      nodes.push(svg("rect", { class: kind, x, y, width: length, height: ROW_HEIGHT - 3 }));
      if (kind === "used" && isFirst && length > 7 * id.length + 5)
        borders.push(svg("text", { class: "label", x: x + 4, y: y + 15 }, id));
      isFirst = false;
    });
  }
  for (const piece of frame.layout) {
    inRows(piece.start, piece.start + piece.size, (x, y, length) => {
      if (piece.id === chosen)
        borders.push(svg("rect", { class: "is-chosen", x: x + 1, y: y + 1, width: length - 2, height: ROW_HEIGHT - 5 }));
    });
    const edge = { x: (piece.start % columns) * cell, y: Math.floor(piece.start / columns) * ROW_HEIGHT };
    nodes.push(svg("path", { class: "border", d: `M${edge.x} ${edge.y}v${ROW_HEIGHT - 3}` }));
  }
  picture.setAttribute("viewBox", `0 0 ${width} ${numRows * ROW_HEIGHT}`);
  picture.replaceChildren(...nodes, ...borders);
}

// Usage over time, stacked, one column a step; a click goes there.
function drawCurve(each) {
  const picture = each.panel.querySelector(".curve");
  const width = 1000 / (lastStep + 1);
  const nodes = [];
  for (let at = 0; at <= lastStep; at++) {
    const { frame } = each.byStep.get(at) || { frame: each.result.empty };
    let top = 100;
    for (const kind of CLASSES) {
      const height = (100 * frame.usage[kind]) / settings.capacity;
      top -= height;
      if (height) nodes.push(svg("rect", { class: "plain-" + kind, x: at * width, y: top, width: width + 0.3, height }));
    }
  }
  picture.setAttribute("viewBox", "0 0 1000 100");
  picture.setAttribute("preserveAspectRatio", "none");
  nodes.push(svg("line", { class: "cursor", y1: 0, y2: 100, "vector-effect": "non-scaling-stroke" }));
  picture.replaceChildren(...nodes);
  picture.onclick = (event) => {
    const box = picture.getBoundingClientRect();
    goTo(Math.floor(((event.clientX - box.left) / box.width) * (lastStep + 1)));
  };
}

// ---- what it comes to ----

function showAverages() {
  const heads = ["policy", ...CLASSES.map((name) => name + " %"), "requests at once", "steps", "preempted", "copied"];
  const head = element("tr", {}, heads.map((text) => element("th", { scope: "col", textContent: text })));
  const rows = runs.filter((each) => each.summary).map(({ name, summary }) => {
    const shares = CLASSES.map((kind) => (100 * summary.shares[kind]).toFixed(1));
    const values = [...shares, summary.meanRunning.toFixed(1), summary.numSteps, summary.numPreemptions, summary.numCopiedTokens];
    const cells = values.map((value) => element("td", { textContent: value }));
    return element("tr", {}, [element("th", { scope: "row", textContent: name }), ...cells]);
  });
  $("averages").replaceChildren(element("thead", {}, [head]), element("tbody", {}, rows));
  $("averages-note").textContent = noteOnAverages(runs.filter((each) => each.summary));
}

function noteOnAverages(played) {
  if (!played.length) return "No policy can hold these requests.";
  const copied = " Copied: tokens moved because a chunk grew.";
  const waited = played.filter((each) => each.summary.isUnderLoad).map((each) => each.name);
  if (!waited.length) return "Nobody ever waited: averages over all steps." + copied;
  const others = waited.length < played.length ? "; for the others, over all steps" : "";
  return `Averages over the steps in which somebody waited (${waited.join(", ")})${others}.` + copied;
}

function showPython() {
  const lengths = trace.map(([, prompt, output]) => `(${prompt}, ${output})`).join(", ");
  const names = runs.filter((each) => each.result).map((each) => `"${each.name}"`).join(", ");
  $("python").textContent = [
    "from minivllm.sim.memory_report import run_memory",
    "from minivllm.sim.policies import make_policy",
    "from minivllm.sim.trace import fixed_trace",
    "",
    `trace = fixed_trace([${lengths}], arrivals=[${trace.map(([arrival]) => arrival).join(", ")}])`,
    `for name in [${names}]:`,
    `    policy = make_policy(name, ${settings.capacity}, block_size=${settings.block_size}, max_model_len=${settings.max_model_len})`,
    "    print(run_memory(trace, policy, step_time=1.0).summary)",
  ].join("\n");
}

// ---- what the reader edits ----

function refuse(field, name) {
  const [low, high] = RANGES[name];
  const value = Number(field.value);
  const isFine = field.value !== "" && Number.isInteger(value) && low <= value && value <= high;
  field.setAttribute("aria-invalid", String(!isFine));
  say(isFine ? "" : `${name} must be a whole number from ${low} to ${high}; the pictures still show the last one that was.`);
  return !isFine;
}

function buildTrace() {
  const rows = trace.map((lengths, index) => {
    const id = "r" + (index + 1);
    const cells = ["arrival", "prompt", "output"].map((name, column) => {
      const [min, max] = RANGES[name];
      const field = element("input", { type: "number", min, max, value: lengths[column], ariaLabel: `${name} of ${id}` });
      field.addEventListener("input", () => {
        if (refuse(field, name)) return;
        trace = trace.map((each, i) => (i === index ? each.with(column, Number(field.value)) : each));
        recompute();
      });
      return element("td", {}, [field]);
    });
    const remove = element("button", { type: "button", textContent: "×", ariaLabel: `Remove ${id}`, disabled: trace.length === 1 });
    remove.addEventListener("click", () => setTrace(trace.filter((_, i) => i !== index)));
    const row = element("tr", {}, [element("th", { scope: "row", textContent: id }), ...cells, element("td", {}, [remove])]);
    const choose = (who) => () => { chosen = who; goTo(step); };
    for (const [event, who] of [["mouseenter", id], ["focusin", id], ["mouseleave", null], ["focusout", null]])
      row.addEventListener(event, choose(who));
    return row;
  });
  $("trace").tBodies[0].replaceChildren(...rows);
  $("add").disabled = trace.length >= MAX_REQUESTS;
}

function setTrace(lengths) {
  trace = lengths;
  buildTrace();
  recompute();
}

function setSettings(changes) {
  Object.assign(settings, changes);
  for (const [name, value] of Object.entries(settings)) $(name).value = value;
}

function drawRandom() {
  const between = (low, high) => low + Math.floor(Math.random() * (high - low + 1));
  return Array.from({ length: 10 }, () => [between(0, 12), between(1, 24), between(1, 32)]);
}

function buildPresets() {
  const make = ([name, { trace: lengths, ...changes }]) => {
    const button = element("button", { type: "button", textContent: name });
    button.addEventListener("click", () => {
      setSettings({ ...DEFAULTS, ...changes });
      step = 0;
      setTrace(lengths);
    });
    return button;
  };
  const random = element("button", { type: "button", textContent: "Random" });
  random.addEventListener("click", () => setTrace(drawRandom()));
  $("presets").append(...Object.entries(PRESETS).map(make), random);
}

function buildLegend() {
  const entries = Object.entries(LABELS).map(([kind, label]) => {
    const sample = svg("svg", { "aria-hidden": "true" });
    sample.append(svg("rect", { class: kind, width: "100%", height: "100%" }));
    return element("li", {}, [sample, label]);
  });
  $("legend").append(...entries);
}

// ---- the address: #capacity=128&...&trace=0-12-8,0-5-30&step=3 ----

function writeAddress() {
  const parts = { ...settings, trace: trace.map((lengths) => lengths.join("-")).join(","), step };
  const text = Object.entries(parts).map(([name, value]) => `${name}=${value}`).join("&");
  history.replaceState(null, "", "#" + text);
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const inRange = (name, text) => {
    const [low, high] = RANGES[name];
    const value = Number(text);
    return text !== "" && Number.isInteger(value) && low <= value && value <= high;
  };
  for (const name of ["capacity", "block_size", "max_model_len"])
    if (given.has(name) && inRange(name, given.get(name))) settings[name] = Number(given.get(name));
  if (given.get("placement") === "-first-fit") settings.placement = "-first-fit";
  const rows = (given.get("trace") || "").split(",").map((row) => row.split("-"));
  const names = ["arrival", "prompt", "output"];
  const areFine = rows.every((row) => row.length === 3 && row.every((text, i) => inRange(names[i], text)));
  if (areFine && rows.length <= MAX_REQUESTS) trace = rows.map((row) => row.map(Number));
  if (/^\d{1,5}$/.test(given.get("step"))) step = Number(given.get("step"));
}

// ---- begin ----

function listen() {
  for (const name of ["capacity", "block_size", "max_model_len"])
    $(name).addEventListener("input", () => {
      if (refuse($(name), name)) return;
      settings[name] = Number($(name).value);
      recompute();
    });
  $("placement").addEventListener("input", () => {
    settings.placement = $("placement").value;
    recompute();
  });
  $("add").addEventListener("click", () => setTrace([...trace, trace.at(-1)]));
  $("play").addEventListener("click", () => play(timer === null));
  $("back").addEventListener("click", () => goTo(step - 1));
  $("forward").addEventListener("click", () => goTo(step + 1));
  $("step").addEventListener("input", () => goTo(Number($("step").value)));
  addEventListener("resize", () => goTo(step));
  addEventListener("keydown", (event) => {
    const isElsewhere = /^(INPUT|SELECT|BUTTON|SUMMARY|PRE)$/.test(event.target.tagName) || event.ctrlKey || event.altKey || event.metaKey;
    const moves = { ArrowLeft: () => goTo(step - 1), ArrowRight: () => goTo(step + 1), Home: () => goTo(0), End: () => goTo(lastStep), " ": () => play(timer === null) };
    if (isElsewhere || !moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
}

readAddress();
setSettings({});
buildLegend();
buildPresets();
listen();
setTrace(trace);
