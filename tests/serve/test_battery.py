"""Hostile input against the real engine while a victim's stream runs beside it.

Every input is answered with 4xx (or a bounded 200) in bounded time, none with 5xx; the victim's text does not change,
no block is lost, and the process does not grow.
"""

import concurrent.futures
import itertools
import json
import os
import threading
import time

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = 10.0  # for one refusal, on a busy machine; alone it takes milliseconds
VICTIM = {"prompt": "Once upon a time", "max_tokens": 120, "temperature": 0.8, "seed": 7, "ignore_eos": True}


class Victim:
    """Streams one request over and over; its text must always be the same."""

    def __init__(self, server) -> None:
        self._server = server
        self.expected = self._stream()
        self.texts = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _stream(self) -> str:
        body = {**VICTIM, "stream": True}
        with httpx.stream("POST", self._server.url + "/v1/completions", json=body, timeout=60) as response:
            lines = [line for line in response.iter_lines() if line.startswith("data: {")]
        return "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)

    def _run(self):
        while not self._stop.is_set():
            self.texts.append(self._stream())

    def end(self):
        self._stop.set()
        self._thread.join(60)
        assert self.texts and set(self.texts) == {self.expected}


@pytest.fixture(scope="module")
def victim(real):
    victim = Victim(real)
    yield victim
    victim.end()


@pytest.fixture(autouse=True)
def still_well(real, victim):
    yield
    assert real.get("/health").status_code == 200
    answer = real.post("/v1/completions", json={"prompt": "A fox", "max_tokens": 2, "temperature": 0})
    assert answer.status_code == 200


def status_of(real, path, body, allowed=(400,)):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    started = time.monotonic()
    response = real.post(path, content=content, headers={"Content-Type": "application/json"}, timeout=60)
    assert time.monotonic() - started < SECONDS, body if len(content) < 300 else content[:300]
    assert response.status_code in allowed, (content[:300], response.status_code, response.text[:300])
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and 10 < len(error["message"]) <= 1000
    return response


def deep(levels: int) -> dict:
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


FORMS = [
    {"json": {"type": "nonsense"}},
    {"json": {"type": "object", "properties": {"a": {"type": "strng"}}}},
    {"json": {"pattern": "[", "type": "string"}},
    {"json": {"$ref": "#/nowhere"}},
    {"json": {"$ref": "http://127.0.0.1:9/schema.json"}},
    {"json": {"$ref": "file:///etc/passwd"}},
    {"json": "{"},
    {"json": ""},
    {"json": "[]"},
    {"json": "5"},
    {"json": deep(100)},
    {"json": {"type": "string", "pattern": "(" * 5000}},
    {"json": {"enum": []}},
    {"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
    {"regex": "("},
    {"regex": "["},
    {"regex": "a{5,2}"},
    {"regex": "\0"},
    {"regex": ""},
    {"regex": "(?=a)b"},
    {"regex": "(a)\\1"},
    {"regex": "|".join(f"word{i}" for i in range(100_000))},
    {"grammar": ""},
    {"grammar": "start: nowhere"},
    {"grammar": 'start: "a" \0'},
    {"grammar": "root ::= root"},
    {"grammar": "start: " + "(" * 5000},
    {"choice": [""]},
    {"choice": ["a\0b"]},
    {"choice": ["x" * 200_000]},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form)[:40])
def test_hostile_forms(real, form):
    body = {"prompt": "a", "max_tokens": 4, "structured_outputs": form}
    status_of(real, "/v1/completions", body)
    if "json" in form and isinstance(form["json"], dict):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": form["json"]}}
        messages = [{"role": "user", "content": "a"}]
        status_of(
            real, "/v1/chat/completions", {"messages": messages, "max_tokens": 4, "response_format": wanted}
        )


BOUNDED_FORMS = [
    {"grammar": "start: "},
    {"regex": "(x{1,1000}){1,1000}"},
    {"regex": "((a{1,100}){1,100}){1,100}"},
    {"json": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}}},
    {"json": {"type": "string", "minLength": 10**9}},
    {"regex": "(a+)+b"},
    {"regex": "(a|a)*c"},
    {"regex": "(.*)*(.*)*x"},
    {"choice": [f"word {i}" for i in range(2000)]},
    {"json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(500)}}},
    {
        "json": {
            "anyOf": [{"type": "object", "properties": {f"q{i}": {"type": "number"}}} for i in range(200)]
        }
    },
]


@pytest.mark.parametrize("form", BOUNDED_FORMS, ids=lambda form: str(form)[:40])
def test_forms_that_may_be_served_but_take_bounded_time(real, form):
    body = {"prompt": "a", "max_tokens": 6, "structured_outputs": form}
    status_of(real, "/v1/completions", body, allowed=(200, 400))


def test_many_different_schemas_fill_nothing(real):
    before = resident_bytes()
    for i in range(60):
        form = {
            "json": {"type": "object", "properties": {f"name{i}": {"const": i}}, "required": [f"name{i}"]}
        }
        status_of(
            real, "/v1/completions", {"prompt": "a", "max_tokens": 1, "structured_outputs": form}, (200,)
        )
    assert resident_bytes() - before < 100 * 2**20


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


HUGE = [10**9, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, -1, "3", True, [], {}, None]
FIELDS = [
    *(
        "n",
        "max_tokens",
        "min_tokens",
        "top_k",
        "seed",
        "logprobs",
        "prompt_logprobs",
        "priority",
        "temperature",
    ),
    *("top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"),
    *("truncate_prompt_tokens", "best_of", "stop_token_ids", "allowed_token_ids", "bad_words", "logit_bias"),
    *(
        "stop",
        "stream_options",
        "response_format",
        "structured_outputs",
        "cache_salt",
        "request_id",
        "prompt",
    ),
    *("echo", "stream", "use_beam_search", "ignore_eos", "return_token_ids", "truncation_side", "vllm_xargs"),
]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_with_every_strange_value(real, field):
    for value in HUGE:
        body = {"prompt": "a", "max_tokens": 2, "stop": [" "], field: value}
        if field == "max_tokens":  # however many are allowed, the answer is short
            body["structured_outputs"] = {"choice": ["yes"]}
        status_of(real, "/v1/completions", body, allowed=(200, 400))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5000])
def test_numbers_that_json_cannot_hold(real, number):
    for field in ("temperature", "n", "seed", "logit_bias", "length_penalty"):
        text = f'{{"{field}": {{"5": {number}}}' if field == "logit_bias" else f'{{"{field}": {number}'
        status_of(real, "/v1/completions", (text + ', "prompt": "a"}').encode())


TOKENS = [[3072], [2**31], [2**63], [10**30], [-1], [0.5], [[3, 4], [3072]], [3] * 100_000]


@pytest.mark.parametrize("prompt", TOKENS, ids=lambda p: str(p)[:20])
def test_ids_outside_of_the_vocabulary(real, prompt):
    status_of(real, "/v1/completions", {"prompt": prompt})
    status_of(real, "/v1/embeddings", {"input": prompt})
    flat = prompt[1] if isinstance(prompt[0], list) else prompt
    allowed = (200,) if flat == [3] * 100_000 else (400,)
    status_of(real, "/detokenize", {"tokens": flat}, allowed)


def test_thousands_of_stops_biases_and_messages(real):
    for body in (
        {"stop": ["x"] * 10_000},
        {"stop_token_ids": list(range(5000))},
        {"bad_words": ["x"] * 10_000},
        {"logit_bias": {str(i): 1 for i in range(3000)}},
        {"prompt": ["a"] * 100_000},
        {"n": 16384, "max_tokens": 10**9, "prompt": ["a"] * 1024},
        {"use_beam_search": True, "n": 16384},
        {"use_beam_search": True, "n": 200, "max_tokens": 2000},
    ):
        allowed = (400, 503) if "n" in body else (400,)
        status_of(real, "/v1/completions", {"prompt": "a", **body}, allowed)
    message = {"role": "user", "content": "a"}
    status_of(real, "/v1/chat/completions", {"messages": [message] * 100_000})
    parts = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}] * 20_000
    status_of(real, "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})


URLS = [
    "http://127.0.0.1:9/x.png",
    "http://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "http://user@127.0.0.1/x",
    "http:\\\\127.0.0.1\\x",
    "data:image/png;base64,AAAA",
]


@pytest.mark.parametrize("url", URLS)
def test_media_are_refused_without_being_fetched(real, url):
    for kind in ("image_url", "video_url", "audio_url"):
        content = [{"type": "text", "text": "what is it?"}, {"type": kind, kind: {"url": url}}]
        response = status_of(
            real, "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}
        )
        assert "text only" in response.json()["error"]["message"]


TEMPLATE_MARKS = ["{{ 7 * 7 }}", "{% for i in range(10**9) %}x{% endfor %}", "{{ ''.__class__.__mro__ }}"]


@pytest.mark.parametrize("text", TEMPLATE_MARKS)
def test_template_language_in_a_message_is_text(real, text):
    """What a user writes is never a template: it reaches the model letter by letter."""
    count = real.post(
        "/tokenize", json={"messages": [{"role": "user", "content": text}], "return_token_strs": True}
    )
    tokens = real.post("/detokenize", json={"tokens": count.json()["tokens"]}).json()["prompt"]
    assert text in tokens


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize")
known = st.sampled_from(
    [*FIELDS, "messages", "tools", "tool_choice", "input", "tokens", "chat_template_kwargs", "model"]
)
bodies = st.dictionaries(known, json_values, max_size=5)
explore = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@explore
@given(st.sampled_from(PATHS), bodies)
def test_any_json_is_answered(real, path, body):
    base = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "input": "a", "tokens": [5]}
    body = {**base, "max_tokens": 2, **body}
    if isinstance(body["max_tokens"], int):
        body["max_tokens"] = min(body["max_tokens"], 4)
    status_of(real, path, body, allowed=(200, 400, 404, 503))


@explore
@given(st.sampled_from(PATHS), st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_answered(real, path, body):
    status_of(real, path, body, allowed=(400,))


def test_clients_cut_off_in_masses(real):
    """Streams that are left at once, all at the same time; afterwards the engine is empty and answers in time."""

    def impatient(i):
        body = {"prompt": f"Client {i}", "max_tokens": 1900, "ignore_eos": True, "stream": i % 2 == 0}
        url = real.url + "/v1/completions"
        if not body["stream"]:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, json=body, timeout=0.5)
            return
        with httpx.stream("POST", url, json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(impatient, range(40)))
    started = time.monotonic()
    assert real.post("/v1/completions", json={"prompt": "A fox", "max_tokens": 2}).status_code == 200
    assert time.monotonic() - started < 10


def test_fields_in_pairs_never_end_in_a_500(real):
    """Each value is fine alone; together they may contradict one another, which is a 400."""
    values = {
        "n": 2,
        "use_beam_search": True,
        "stream": True,
        "echo": True,
        "logprobs": 1,
        "prompt_logprobs": 1,
        "structured_outputs": {"choice": ["a", "b"]},
        "min_tokens": 3,
        "max_tokens": 0,
        "stop": ["a"],
        "allowed_token_ids": [5, 6],
        "logit_bias": {"5": 100},
        "return_token_ids": True,
        "temperature": 0,
    }
    for (a, x), (b, y) in itertools.combinations(values.items(), 2):
        body = {"prompt": "a", "max_tokens": 4, a: x, b: y}
        status_of(real, "/v1/completions", body, allowed=(200, 400))
