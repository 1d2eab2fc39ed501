// The chat page: reads a question, streams the answer, shows how the server is. No framework, no outside assets;
// what the model says reaches the page only through textContent.
import { api, events, refusal, setKey } from "./api.js";

const SUGGESTIONS = [
  ["Explain", "What is PagedAttention?"],
  ["Explain", "What is copy-on-write?"],
  ["中文", "什么是 KV cache？"],
  [
    "Find a fact",
    "Read these notes: The code for banana is 4711. The lantern of Grace is kept at the old mill. Omar likes noodles. " +
      "The fox lives at the rose garden. Where is the lantern?",
  ],
  ["Tell a story", "Tell me a story about a fox."],
  ["Play with words", "Reverse these words: apple beach amber banana"],
];
const NUMBER_KNOBS = [["max-tokens", "max_tokens"], ["top-p", "top_p"], ["top-k", "top_k"], ["seed", "seed"]];
const STATUS_SECONDS = { idle: 2, busy: 0.5 };

const $ = (id) => document.getElementById(id);
const messages = []; // the conversation, as the API takes it
let running = null; // the AbortController of the answer that is being written
let temperatureWasSet = false;

function requestBody() {
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  if (temperatureWasSet) body.temperature = Number($("temperature").value);
  for (const [id, name] of NUMBER_KNOBS) if ($(id).value) body[name] = Number($(id).value);
  if ($("stop-text").value) body.stop = $("stop-text").value;
  return body;
}

// ---- one question, one answer ----

async function ask(text) {
  if (running) return;
  hideError();
  $("welcome").hidden = true;
  messages.push({ role: "user", content: text });
  const question = addTurn("question", text);
  const answer = addTurn("answer", "");
  answer.classList.add("is-streaming");
  running = new AbortController();
  showRunning(true);
  const started = performance.now();
  const seen = { text: "", firstAt: 0, usage: null, reason: null };
  try {
    const response = await api("v1/chat/completions", requestBody(), running.signal);
    if (!response.ok) throw await refusal(response);
    for await (const event of events(response)) take(event, seen, answer);
    finish(answer, seen, started);
  } catch (error) {
    giveUp(error, { question, answer, seen, text });
  } finally {
    answer.classList.remove("is-streaming");
    running = null;
    showRunning(false);
    refreshStatus();
  }
}

function take(event, seen, answer) {
  if (event.usage) seen.usage = event.usage;
  for (const choice of event.choices) {
    if (choice.finish_reason) seen.reason = choice.finish_reason;
    if (!choice.delta.content) continue;
    if (!seen.firstAt) seen.firstAt = performance.now();
    seen.text += choice.delta.content;
    const follow = isAtBottom();
    answer.querySelector(".said").textContent = seen.text;
    if (follow) scrollToBottom();
  }
}

function finish(answer, seen, started) {
  messages.push({ role: "assistant", content: seen.text });
  const notes = [];
  const tokens = seen.usage ? seen.usage.completion_tokens : 0;
  if (tokens) notes.push(tokens + (tokens === 1 ? " token" : " tokens"));
  if (seen.firstAt) notes.push(((seen.firstAt - started) / 1000).toFixed(2) + " s to the first");
  const seconds = (performance.now() - seen.firstAt) / 1000;
  if (tokens > 1 && seconds > 0) notes.push(Math.round((tokens - 1) / seconds) + " tokens/s");
  if (seen.reason === "length") notes.push("cut off by the length limit");
  addNote(answer, notes.join(" · "));
  $("announcer").textContent = seen.text;
}

// A stopped answer stays in the conversation; a refused question goes back into the box.
function giveUp(error, { question, answer, seen, text }) {
  if (seen.text) {
    messages.push({ role: "assistant", content: seen.text });
    addNote(answer, error.name === "AbortError" ? "stopped" : "broken off");
  } else {
    messages.pop();
    question.remove();
    answer.remove();
    if (!$("question").value) $("question").value = text;
    fitQuestion();
    $("welcome").hidden = messages.length > 0;
  }
  if (error.name === "AbortError") return;
  if (error.status === 401) return askForKey();
  showError(error instanceof TypeError ? "The server cannot be reached. Is it still running?" : error.message);
}

function newChat() {
  if (running) running.abort();
  messages.length = 0;
  $("conversation").replaceChildren();
  $("welcome").hidden = false;
  $("announcer").textContent = "";
  hideError();
  $("question").focus();
}

// ---- the page ----

function addTurn(kind, text) {
  const turn = document.createElement("li");
  turn.className = kind;
  const who = document.createElement("span");
  who.className = "visually-hidden";
  who.textContent = kind === "question" ? "You: " : "Model: ";
  const said = document.createElement("p");
  said.className = "said";
  said.dir = "auto";
  said.textContent = text;
  turn.append(who, said);
  $("conversation").append(turn);
  scrollToBottom();
  return turn;
}

function addNote(turn, text) {
  if (!text) return;
  const follow = isAtBottom();
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = text;
  turn.append(note);
  if (follow) scrollToBottom();
}

function isAtBottom() {
  const box = $("scroller");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 40;
}

function scrollToBottom() {
  $("scroller").scrollTop = $("scroller").scrollHeight;
}

function showRunning(isRunning) {
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
  for (const button of $("suggestions").querySelectorAll("button")) button.disabled = isRunning;
  fitQuestion();
}

function showError(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = false;
}

function hideError() {
  $("error").hidden = true;
}

function askForKey() {
  $("key-form").hidden = false;
  $("key").focus();
}

function fitQuestion() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = box.scrollHeight + "px";
  $("send").disabled = !box.value.trim();
}

function submitQuestion() {
  const text = $("question").value.trim();
  if (!text || running) return;
  $("question").value = "";
  fitQuestion();
  $("question").focus();
  ask(text);
}

// ---- the status line ----

let statusTimer = 0;

async function refreshStatus() {
  clearTimeout(statusTimer);
  if (!document.hidden) {
    try {
      const response = await api("status");
      if (!response.ok) throw await refusal(response);
      showStatus(await response.json());
    } catch (error) {
      showStatus({ is_alive: false, why: error.status === 401 ? "needs an API key" : "not reachable" });
    }
  }
  statusTimer = setTimeout(refreshStatus, 1000 * (running ? STATUS_SECONDS.busy : STATUS_SECONDS.idle));
}

function showStatus(status) {
  const { num_requests_running: active, num_requests_waiting: waiting } = status;
  $("kv").hidden = !status.is_alive;
  if (!status.is_alive) {
    $("status").className = "is-dead";
    $("status-text").textContent = status.why || "engine stopped: restart the server";
    return;
  }
  $("status").className = active + waiting ? "is-busy" : "is-idle";
  $("status-text").textContent = active + " running · " + waiting + " waiting";
  const inUse = status.num_blocks_in_use;
  $("kv-bar").max = status.num_blocks;
  $("kv-bar").value = inUse && Math.max(inUse, status.num_blocks / 50); // a little is still seen
  $("kv-text").textContent = inUse.toLocaleString("en") + " of " + status.num_blocks.toLocaleString("en") + " blocks";
  $("model").textContent = status.model;
  document.dispatchEvent(new CustomEvent("status-known", { detail: status }));
  $("model").hidden = false;
  $("max-tokens").max = status.max_model_len;
  if (!temperatureWasSet) setTemperature(status.default_temperature);
}

function setTemperature(value) {
  $("temperature").value = value;
  $("temperature-value").value = Number($("temperature").value).toFixed(2);
}

// ---- wiring ----

for (const [kind, text] of SUGGESTIONS) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  for (const [name, value] of [["kind", kind], ["text", text]]) {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = value;
    button.append(span);
  }
  button.addEventListener("click", () => ask(text));
  item.append(button);
  $("suggestions").append(item);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submitQuestion();
});
$("question").addEventListener("input", fitQuestion);
$("question").addEventListener("keydown", (event) => {
  // while an input method is composing (Chinese, Japanese ...), Enter picks a word and must not send
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
    event.preventDefault();
    submitQuestion();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
$("stop").addEventListener("click", () => running && running.abort());
$("new-chat").addEventListener("click", newChat);
$("temperature").addEventListener("input", () => {
  temperatureWasSet = true;
  setTemperature($("temperature").value);
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value.trim());
  $("key-form").hidden = true;
  refreshStatus();
  submitQuestion();
});
document.addEventListener("visibilitychange", refreshStatus);
if (matchMedia("(pointer: fine)").matches) $("question").focus(); // on a phone it would bring up the keyboard
fitQuestion();
refreshStatus();
