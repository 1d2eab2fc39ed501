// The X-ray: watches the engine, keeps the last steps, and shows the latest or any other of them.
import { api, events, refusal } from "./api.js";
import { colourOf, drawBatches, drawMap, inkOn, numDrawn } from "./xray-draw.js";
import { History } from "./xray-state.js";

const HISTORY = 1200; // frames that can be replayed
const MAX_CHIPS = 24;
const RETRY_MILLISECONDS = 2000;
const $ = (id) => document.getElementById(id);

let engine = null; // what the first event said: blocks, block size, budget
let history = null;
let shownAt = null; // the frame that is looked at; null = the latest
let watching = null; // AbortController of the stream
let geometry = null;
let isDrawingDue = false;
let first = null; // the counters when the page began to watch

// ---- the stream ----

async function watch() {
  if (watching) return;
  watching = new AbortController();
  const { signal } = watching;
  try {
    const response = await api("xray?replica=" + ($("replica").value || 0), undefined, signal);
    if (!response.ok) throw await refusal(response);
    note("");
    for await (const event of events(response)) take(event);
  } catch (error) {
    if (signal.aborted) return;
    watching = null;
    if (error.status === 401) return note("The X-ray needs the API key: ask something first.");
    note(error.status ? error.message : "The engine cannot be watched at the moment; trying again.");
    setTimeout(() => isOpen() && watch(), RETRY_MILLISECONDS);
  }
}

function leave() {
  if (watching) watching.abort();
  watching = null;
}

function take(event) {
  if (event.state) {
    engine = event.state;
    history = new History(event.state, HISTORY);
    history.number = event.state.number;
    shownAt = null;
    first = null;
    offerReplicas(event.state.num_replicas);
  }
  for (const frame of event.frames || []) {
    if (frame.number <= history.number) continue;
    if (frame.number !== history.number + 1) throw new Error("frames were lost"); // begin again from the state of now
    history.number = frame.number;
    if (history.frames.length === history.size && shownAt) shownAt -= 1;
    first = first || frame;
    history.push(frame);
  }
  draw();
}

// ---- drawing, at most once for each frame of the screen ----

function draw() {
  if (isDrawingDue) return;
  isDrawingDue = true;
  requestAnimationFrame(() => {
    isDrawingDue = false;
    if (isOpen() && history) show();
  });
}

function show() {
  const { frames } = history;
  const last = frames.length - 1;
  const index = shownAt === null ? last : Math.min(shownAt, last);
  const state = history.at(index);
  const owners = state.owners();
  const drawn = numDrawn(engine.num_blocks, history.now.highest);
  geometry = { ...drawMap($("map"), drawn, state, owners), owners, state };
  drawBatches($("batches"), frames, index, engine.budget);
  describeMap(state, owners, drawn);
  describeBatch(frames, index);
  showQueue("running", state.running, state);
  showQueue("waiting", state.waiting, state);
  showFigures(frames, index);
  showReplay(frames, index);
}

function describeMap(state, owners, drawn) {
  const shared = [...owners.values()].filter((holders) => holders.length > 1).length;
  const cached = [...state.cached].filter((block) => !owners.has(block)).length;
  const text =
    owners.size + " of " + (engine.num_blocks - 1) + " in use · " + shared + " shared · " + cached + " cached and free" +
    (drawn < engine.num_blocks ? " · the first " + drawn + " are drawn, no other was ever used" : "");
  $("map-sum").textContent = text;
  $("map").setAttribute("aria-label", "Block map: " + text);
}

function describeBatch(frames, index) {
  let step = index;
  while (step >= 0 && !(frames[step].batch && frames[step].batch.length)) step -= 1;
  if (step < 0) return;
  const { batch } = frames[step];
  const tokens = batch.reduce((sum, [, count]) => sum + count, 0);
  const prompts = batch.filter(([, count]) => count > 1).length;
  const text =
    "step " + frames[step].step + ": " + tokens + " of " + engine.budget.toLocaleString("en") + " tokens, " +
    batch.length + (batch.length === 1 ? " request" : " requests") + (prompts ? ", " + prompts + " reading" : "");
  $("batch-sum").textContent = text;
  $("budget").max = engine.budget;
  $("budget").value = tokens;
  $("batches").setAttribute("aria-label", "Tokens of the last steps; " + text);
}

function showQueue(name, ids, state) {
  $("num-" + name).textContent = ids.size;
  const chips = [...ids].slice(0, MAX_CHIPS).map((id) => {
    const chip = document.createElement("span");
    chip.className = "chip";
    chip.style.background = colourOf(id);
    chip.style.color = inkOn(colourOf(id));
    chip.textContent = id;
    const blocks = (state.tables.get(id) || []).filter(Boolean).length;
    chip.title = "request " + id + ": " + blocks + (blocks === 1 ? " block" : " blocks");
    return chip;
  });
  if (ids.size > MAX_CHIPS) chips.push("and " + (ids.size - MAX_CHIPS) + " more");
  $(name + "-list").replaceChildren(...chips);
}

// ---- figures ----

function median(values) {
  const sorted = values.slice().sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
}

function milliseconds(seconds) {
  return seconds === null ? "–" : Math.round(1000 * seconds).toLocaleString("en") + " ms";
}

function sampled(frame) {
  return frame.events.reduce((sum, [kind, , count]) => sum + (kind === "sample" ? count : 0), 0);
}

function showFigures(frames, index) {
  if (index < 0) return;
  const now = frames[index];
  const recent = frames.slice(Math.max(0, index - 400), index + 1).filter((frame) => frame.time > now.time - 2);
  const seconds = recent.length > 1 ? now.time - recent[0].time : 0;
  const tokens = recent.slice(1).reduce((sum, frame) => sum + sampled(frame), 0);
  $("rate").textContent = seconds > 0 ? Math.round(tokens / seconds).toLocaleString("en") : "–";
  const steps = frames.slice(Math.max(0, index - 100), index + 1).filter((frame) => frame.batch);
  $("ttft").textContent = milliseconds(median(frames.slice(0, index + 1).flatMap((f) => f.ttft).slice(-20)));
  $("itl").textContent = milliseconds(median(tokenTimes(steps)));
  const queries = now.queries - first.queries;
  $("hits").textContent = queries ? Math.round((100 * (now.hits - first.hits)) / queries) + " %" : "–";
  $("preempted").textContent = now.preemptions - first.preemptions;
}

// Seconds between two steps that follow one another and answer the same request.
function tokenTimes(steps) {
  const times = [];
  for (let i = 1; i < steps.length; i += 1) {
    const before = new Set(steps[i - 1].events.filter(([kind]) => kind === "sample").map(([, id]) => id));
    const again = steps[i].events.some(([kind, id]) => kind === "sample" && before.has(id));
    if (again && steps[i].step === steps[i - 1].step + 1) times.push(steps[i].time - steps[i - 1].time);
  }
  return times;
}

// ---- replay ----

function showReplay(frames, index) {
  const slider = $("moment");
  slider.max = Math.max(0, frames.length - 1);
  slider.value = index;
  const isLive = shownAt === null;
  $("live").setAttribute("aria-pressed", isLive);
  const behind = index >= 0 ? frames[frames.length - 1].time - frames[index].time : 0;
  $("moment-text").textContent = isLive ? "now" : behind.toFixed(1) + " s ago";
}

$("moment").addEventListener("input", () => {
  shownAt = Number($("moment").value);
  draw();
});
$("live").addEventListener("click", () => {
  shownAt = shownAt === null && history ? history.frames.length - 1 : null;
  draw();
});

// ---- pointing at a block ----

$("map").addEventListener("pointermove", (event) => {
  if (!geometry) return;
  const { cell, columns, owners, state } = geometry;
  const block = Math.floor(event.offsetY / cell) * columns + Math.floor(event.offsetX / cell);
  if (block >= engine.num_blocks || event.offsetX >= columns * cell) return;
  const holders = owners.get(block);
  const whose = holders ? "held by request " + holders.join(", ") : state.cached.has(block) ? "cached, free to take" : "free";
  $("map-tip").textContent = "Block " + block + ": " + (block ? whose : "the null block, which holds nothing");
});

// ---- making the picture move ----

const STORIES = ["a fox", "a lantern", "a river", "the old mill", "an apple", "a rose garden", "a boat", "the moon"];
const PREFIX =
  "Read these notes: The code for banana is 4711. The lantern of Grace is kept at the old mill. Omar likes noodles. " +
  "The fox lives at the rose garden. Ada keeps the map in the tower. The boat belongs to Nina. The key is under the " +
  "stone. Ben likes apples. The owl lives in the barn. The letter is in the blue box. Mia plays the drum. ";

function prompt(text) {
  return "<|im_start|>user\n" + text + "<|im_end|>\n<|im_start|>assistant\n";
}

// Few connections with several prompts each: browsers open only six to one server.
async function send(button, groups) {
  button.disabled = true;
  note("");
  try {
    await Promise.all(
      groups.map(async ([prompts, maxTokens]) => {
        const sampling = { max_tokens: maxTokens, temperature: 1, ignore_eos: true };
        const body = { prompt: prompts, stream: true, add_special_tokens: false, ...sampling };
        const response = await api("v1/completions", body);
        if (!response.ok) throw await refusal(response);
        for await (const _ of events(response)); // streamed, so that the first token is told when it comes
      }),
    );
  } catch (error) {
    note(error.status ? error.message : "The server cannot be reached. Is it still running?");
  } finally {
    button.disabled = false;
  }
}

$("send-20").addEventListener("click", () => {
  const prompts = Array.from({ length: 20 }, (_, i) => prompt("Tell me a story about " + STORIES[i % 8] + " and " + STORIES[(i * 3 + 1) % 8] + "."));
  send($("send-20"), [40, 90, 160, 240].map((maxTokens, i) => [prompts.slice(5 * i, 5 * i + 5), maxTokens]));
});
$("send-shared").addEventListener("click", () => {
  const prompts = STORIES.map((what) => prompt(PREFIX + "Where is " + what + "?"));
  send($("send-shared"), [60, 120].map((maxTokens, i) => [prompts.slice(4 * i, 4 * i + 4), maxTokens]));
});

// ---- data-parallel replicas: each has a scheduler and a KV cache of its own ----

function offerReplicas(count) {
  if (count < 2 || $("replica").length) return;
  $("replica").append(...Array.from({ length: count }, (_, i) => new Option(i, i)));
  $("replica-choice").hidden = false;
}

$("replica").addEventListener("change", () => {
  leave();
  watch();
});

// ---- opening and closing ----

function isOpen() {
  return !$("xray").hidden;
}

function note(sentence) {
  $("xray-note").textContent = sentence;
}

function open(isWanted) {
  $("xray").hidden = !isWanted;
  document.body.classList.toggle("with-xray", isWanted);
  $("show-xray").setAttribute("aria-expanded", isWanted);
  localStorage.setItem("minivllm-xray", isWanted ? "open" : "closed");
  if (isWanted) watch();
  else leave();
  draw();
}

$("show-xray").addEventListener("click", () => open(!isOpen()));
document.addEventListener("key-changed", () => isOpen() && watch());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) leave();
  else if (isOpen()) watch();
});
new ResizeObserver(draw).observe($("xray"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.addEventListener(
  "status-known",
  ({ detail }) => {
    if (!detail.has_xray) return;
    $("show-xray").hidden = false;
    const isWide = matchMedia("(min-width: 64rem)").matches;
    open((localStorage.getItem("minivllm-xray") || (isWide ? "open" : "closed")) === "open" && isWide);
  },
  { once: true },
);
