"""Sending the battery's inputs, judging the answers, and keeping count."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from minivllm.bench.hostile import COMPLETIONS, HostileInput
from minivllm.bench.hostile_sockets import ATTACKS
from minivllm.bench.live_server import get
from minivllm.bench.serve_client import Target

SECONDS = 15.0  # for one answer, on a busy machine; alone it takes milliseconds
OPEN_ROUTES = ("/", "/health", "/ping", "/version", "/load", "/metrics", "/static/chat.js")
GUARDED_ROUTES = ("/v1/models", "/v1/completions", "/tokenize", "/detokenize", "/xray", "/status", "/docs")
MIB = 2**20


@dataclass
class Report:
    """Answers by idea, and what should not have happened."""

    classes: dict[str, Counter[str]] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, idea: str, status: str, seconds: float = 0.0, failure: str | None = None) -> None:
        """An answer came; `status` may also be "closed"."""
        with self.lock:
            kind = f"{status[0]}xx" if status[:1].isdigit() else "closed"
            self.classes.setdefault(idea, Counter())[kind] += 1
            self.slowest[idea] = max(self.slowest.get(idea, 0.0), seconds)
            if failure:
                self.failures.append(f"{idea}: {failure}")
                print(self.failures[-1], flush=True)

    @property
    def num_inputs(self) -> int:
        """Of all ideas."""
        return sum(counter.total() for counter in self.classes.values())

    def rows(self) -> list[dict[str, Any]]:
        """A row for each idea."""
        kinds = ("2xx", "4xx", "5xx", "closed")
        return [
            {
                "idea": idea,
                "inputs": counter.total(),
                **{kind: counter[kind] for kind in kinds},
                "slowest_ms": round(1000 * self.slowest[idea], 1),
            }
            for idea, counter in self.classes.items()
        ]

    def table(self) -> str:
        """The rows for the terminal."""
        rows = self.rows()
        names = list(rows[0])
        lines = [f"{'idea':24}" + "".join(f"{name:>12}" for name in names[1:])]
        lines += [f"{row['idea']:24}" + "".join(f"{row[name]:>12}" for name in names[1:]) for row in rows]
        return "\n".join(lines)


def send_all(target: Target, inputs: Sequence[HostileInput], report: Report) -> None:
    """One after the other; after each idea the server must be well."""
    for i, one in enumerate(inputs):
        send(target, one, report)
        if i + 1 == len(inputs) or inputs[i + 1].idea != one.idea:
            check_health(target, one.idea, report)


def send(target: Target, one: HostileInput, report: Report) -> None:
    """One input, whose answer must be a right refusal, or harmless."""
    shown = f"{one.method} {one.path[:60]} {one.body[:200]!r}"
    connection = target.connect()
    started = time.perf_counter()
    try:
        headers = {**target.headers, **one.headers}
        if not one.headers:
            headers.pop("Content-Type")
        connection.request(one.method, target.path(one.path), one.body or None, headers)
        response = connection.getresponse()
        answer = response.read()
        status = str(response.status)
    except (OSError, http.client.HTTPException) as error:
        # a body that is too large may be refused while it is still being sent
        status, answer = "closed", f"{type(error).__name__}: {error}".encode()
    finally:
        connection.close()
    seconds = time.perf_counter() - started
    failure = fault_of(one, status, answer, seconds)
    report.note(one.idea, status, seconds, f"{failure}: {shown}" if failure else None)


def fault_of(one: HostileInput, status: str, answer: bytes, seconds: float) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    if seconds > SECONDS:
        return f"took {seconds:.1f} s"
    if status == "closed":
        return None if len(one.body) > MIB else f"no answer, {answer.decode()}"
    if status[0] == "2":
        return f"was answered with {status}" if one.is_wrong else None
    if status[0] != "4":
        return f"status {status}"
    try:
        error = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        # the HTTP parser itself refuses what is no HTTP, in plain text
        return None if one.idea == "routes" else f"no error JSON, {answer[:100]!r}"
    if set(error) != {"message", "type", "param", "code"} or str(error["code"]) != status:
        return f"error of the wrong shape, {answer[:200]!r}"
    return None if 10 < len(error["message"]) <= 1000 else f"a message of {len(error['message'])} characters"


def check_health(target: Target, idea: str, report: Report) -> None:
    """/health is 200, and a normal request is answered as ever."""
    if get(target, "/health")[0] != 200:
        report.failures.append(f"{idea}: /health is not 200 afterwards")
    body = json.dumps({"prompt": "A fox", "max_tokens": 4, "temperature": 0}).encode()
    started = time.perf_counter()
    connection = target.connect()
    connection.request("POST", target.path(COMPLETIONS), body, target.headers)
    status = connection.getresponse().status
    connection.close()
    report.note("normal requests", str(status), time.perf_counter() - started)
    if status != 200:
        report.failures.append(f"{idea}: a normal request got {status} afterwards")


def attack(target: Target, report: Report) -> None:
    """Everything below HTTP at the same time: the slow ones only wait."""

    def one(index: int) -> None:
        name = ATTACKS[index].__name__.replace("_", " ")
        started = time.perf_counter()
        try:
            seen = ATTACKS[index](target)
        except (AssertionError, OSError) as error:
            report.note("sockets", "closed", failure=f"{name}: {type(error).__name__}: {error}")
            return
        failure = f"{name}: {seen}" if any(word[0] == "5" for word in seen.split()) else None
        for word in seen.split():
            report.note("sockets", word, time.perf_counter() - started, failure)

    with ThreadPoolExecutor(len(ATTACKS)) as pool:
        list(pool.map(one, range(len(ATTACKS))))
    check_health(target, "sockets", report)


def try_keys(target: Target, report: Report) -> None:
    """Guarded routes refuse every wrong key; open ones ask for none."""
    key = target.api_key or ""
    wrong = ("", "Bearer", f"Bearer {key[:-1]}", f"Bearer {key}x", f"Basic {key}", key, "Bearer \xff\xfe")
    trials = [(path, value, "401") for path in GUARDED_ROUTES for value in wrong]
    trials += [(path, "", "200") for path in OPEN_ROUTES]
    for path, value, expected in trials:
        connection = target.connect()
        connection.request("GET", target.path(path), headers={"Authorization": value} if value else {})
        status = str(connection.getresponse().status)
        connection.close()
        failure = None if status == expected else f"{path} with {value[:12]!r}: {status}, not {expected}"
        report.note("keys", status, failure=failure)
