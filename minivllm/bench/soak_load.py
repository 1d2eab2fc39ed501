"""The mix of requests that `bench soak` sends: streams, chats, aborts, long prompts, shared prefixes, and nonsense."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minivllm.bench.serve_client import Target, Timing, ask
from minivllm.bench.serve_workload import FIRST_TOKEN, ServeRequest

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
# How often each kind is drawn.
WEIGHTS = {
    "stream": 8,
    "shared prefix": 6,
    "chat": 3,
    "several choices": 3,
    "long prompt": 2,
    "cut off": 4,
    "bad input": 4,
    "structured": 1,
    "embedding": 1,
    "control": 1,
}
BAD_FIELDS: tuple[dict[str, Any], ...] = (
    {"n": 10**9},
    {"temperature": -1},
    {"temperature": "0.7"},
    {"max_tokens": -5},
    {"min_tokens": 10**9},
    {"logprobs": 10**6},
    {"prompt": ""},
    {"prompt": []},
    {"prompt": [10**9]},
    {"stop": ["x"] * 5000},
    {"logit_bias": {"-1": 5}},
    {"structured_outputs": {"regex": "("}},
    {"structured_outputs": {"json": {"type": "nonsense"}}},
    {"stream_options": {"include_usage": True}},
    {"cache_salt": "/"},
)
CONTROL = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0.8, "seed": 7, "ignore_eos": True}
WORDS = ("What is a KV cache?", "What is a block table?", "Sort these words: river apple stone", "Hello")


@dataclass
class Tally:
    """What came of the requests of one minute; several threads write into it."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    timings: list[Timing] = field(default_factory=list)
    control_texts: set[str] = field(default_factory=set)
    surprises: list[str] = field(default_factory=list)  # what should not have happened
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, status: int, surprise: str | None = None) -> None:
        """A request has been answered."""
        with self.lock:
            self.sent[kind] += 1
            self.statuses[status] += 1
            if surprise:
                self.surprises.append(f"{kind}: {surprise}")


@dataclass(frozen=True)
class Client:
    """One thread's way to ask; `rng` decides what."""

    target: Target
    rng: random.Random
    tally: Tally
    vocab_size: int
    max_len: int

    def run(self, until: float, pause: float) -> None:
        """Ask until `until` (seconds of `time.monotonic()`), with random pauses of `pause` seconds on average."""
        kinds: dict[str, Callable[[], None]] = {
            "stream": lambda: self._timed("stream", self._ids(8, 200)),
            "shared prefix": self._shared_prefix,
            "chat": self._chat,
            "several choices": self._several_choices,
            "long prompt": lambda: self._timed(
                "long prompt", self._ids(self.max_len // 2, self.max_len - 80)
            ),
            "cut off": self._cut_off,
            "bad input": self._bad_input,
            "structured": self._structured,
            "embedding": self._embedding,
            "control": self.control,
        }
        assert kinds.keys() == WEIGHTS.keys()
        while time.monotonic() < until:
            (kind,) = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
            kinds[kind]()
            time.sleep(self.rng.expovariate(1 / pause) if pause else 0.0)

    def _ids(self, low: int, high: int) -> list[int]:
        return [self.rng.randrange(FIRST_TOKEN, self.vocab_size) for _ in range(self.rng.randint(low, high))]

    def _timed(self, kind: str, prompt: list[int]) -> None:
        timing = ask(self.target, ServeRequest(prompt, self.rng.randint(4, 64)))
        self.tally.note(kind, 200 if timing.error is None else 0, timing.error)
        if timing.error is None and kind != "long prompt":  # whose first token takes longer by right
            with self.tally.lock:
                self.tally.timings.append(timing)

    def _shared_prefix(self) -> None:
        shared = random.Random(f"prefix {self.rng.randrange(6)}")
        prefix = [shared.randrange(FIRST_TOKEN, self.vocab_size) for _ in range(192)]
        self._timed("shared prefix", prefix + self._ids(1, 32))

    def _chat(self) -> None:
        messages = [{"role": "user", "content": self.rng.choice(WORDS)}]
        self._expect("chat", CHAT, {"messages": messages, "max_tokens": 48}, 200)

    def _several_choices(self) -> None:
        n = self.rng.randint(2, 5)
        body = {
            "prompt": self._ids(4, 100),
            "n": n,
            "max_tokens": self.rng.randint(2, 40),
            "temperature": 0.9,
        }
        answer = self._expect("several choices", COMPLETIONS, body, 200)
        if answer is not None and len(answer["choices"]) != n:
            self.tally.note("several choices", 0, f"{len(answer['choices'])} choices instead of {n}")

    def _structured(self) -> None:
        body = {"prompt": "Yes or no?", "max_tokens": 8, "structured_outputs": {"choice": ["yes", "no"]}}
        answer = self._expect("structured", COMPLETIONS, body, 200)
        if answer is not None and answer["choices"][0]["text"] not in ("yes", "no"):
            self.tally.note("structured", 0, f"neither yes nor no: {answer['choices'][0]['text']!r}")

    def _embedding(self) -> None:
        self._expect("embedding", "/v1/embeddings", {"input": [self._ids(2, 40), self._ids(2, 40)]}, 200)

    def _bad_input(self) -> None:
        body = {"prompt": "a", "max_tokens": 4, **self.rng.choice(BAD_FIELDS)}
        self._expect("bad input", COMPLETIONS, body, 400)

    def control(self) -> None:
        """The same request every time: its text must never depend on what else is served."""
        answer = self._expect("control", COMPLETIONS, CONTROL, 200)
        if answer is not None:
            with self.tally.lock:
                self.tally.control_texts.add(answer["choices"][0]["text"])

    def _cut_off(self) -> None:
        """Leave before the answer is complete: in a stream, or while waiting for a whole answer."""
        stream = self.rng.random() < 0.7
        body = {"prompt": self._ids(4, 300), "max_tokens": 1000, "ignore_eos": True, "stream": stream}
        body |= {"n": self.rng.choice((1, 1, 1, 3)), "temperature": 0.9}
        connection = self.target.connect()
        connection.timeout = self.rng.uniform(0.05, 1.0)
        status = 499
        try:
            connection.request("POST", self.target.path(COMPLETIONS), json.dumps(body), self.target.headers)
            response = connection.getresponse()
            status = response.status
            for _ in range(self.rng.randint(0, 12)):
                response.readline()
        except TimeoutError:
            pass  # that is how it leaves
        except (OSError, http.client.HTTPException) as error:
            self.tally.note("cut off", 0, f"{type(error).__name__}: {error}")
            return
        finally:
            connection.close()
        self.tally.note("cut off", status, None if status in (200, 499) else f"status {status}")

    def _expect(self, kind: str, route: str, body: dict[str, Any], status: int) -> dict[str, Any] | None:
        """The answer, if it has the expected status and that is 200."""
        connection = self.target.connect()
        try:
            connection.request("POST", self.target.path(route), json.dumps(body), self.target.headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.tally.note(kind, 0, f"{type(error).__name__}: {error}")
            return None
        finally:
            connection.close()
        surprise = None if response.status == status else f"status {response.status}: {text[:200]!r}"
        self.tally.note(kind, response.status, surprise)
        if response.status != 200:
            return None
        answer: dict[str, Any] = json.loads(text)
        return answer
