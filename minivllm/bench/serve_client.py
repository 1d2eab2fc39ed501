"""One timed request to an OpenAI-compatible server, and many at a rate or a concurrency. Standard library only."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from minivllm.bench.serve_workload import ServeRequest

MAX_THREADS = 1024


@dataclass
class Timing:
    """What one request has taken, in seconds; `error` if it failed."""

    ttft: float = 0.0  # to the first token
    itl: list[float] = field(default_factory=list)  # between the pieces that followed
    e2el: float = 0.0  # to the last token
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    error: str | None = None

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first: e2el = ttft + (n - 1) * tpot."""
        return (self.e2el - self.ttft) / (self.num_output_tokens - 1) if self.num_output_tokens > 1 else None


@dataclass(frozen=True)
class Target:
    """A server, and how it is asked."""

    base_url: str
    model: str
    api_key: str | None = None
    temperature: float = 0.0
    ignore_eos: bool = True
    timeout: float = 600.0

    def connect(self) -> http.client.HTTPConnection:
        """A new connection.

        Raises:
            ValueError: the base URL is none.
        """
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url must be like http://127.0.0.1:8000, not {self.base_url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, parts.port, timeout=self.timeout)

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"Content-Type": "application/json", **key}

    def path(self, route: str) -> str:
        """A route below the base URL's own path."""
        return urlsplit(self.base_url).path.rstrip("/") + route


def first_model(target: Target) -> str:
    """The name of the first model that the server lists.

    Raises:
        ValueError: the server cannot be reached, or answers with an error.
    """
    connection = target.connect()
    try:
        connection.request("GET", target.path("/v1/models"), headers=target.headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ValueError(f"{target.base_url} answered with status {response.status}: {body[:200]!r}")
        return str(json.loads(body)["data"][0]["id"])
    except OSError as error:
        raise ValueError(f"{target.base_url} cannot be reached: {error}") from error
    finally:
        connection.close()


def ask(target: Target, request: ServeRequest) -> Timing:
    """Stream one completion and time its pieces; a failure is noted, not raised."""
    timing = Timing()
    body: dict[str, Any] = {
        "model": target.model,
        "prompt": request.prompt,
        "max_tokens": request.output_len,
        "temperature": target.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if target.ignore_eos:
        body["ignore_eos"] = True
    started = time.perf_counter()
    try:
        connection = target.connect()
        try:
            connection.request("POST", target.path("/v1/completions"), json.dumps(body), target.headers)
            response = connection.getresponse()
            if response.status != 200:
                timing.error = f"status {response.status}: {response.read(200)!r}"
                return timing
            _time_pieces(_events(response), timing, started)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        timing.error = f"{type(error).__name__}: {error}"
    if timing.error is None and not timing.num_output_tokens:
        timing.error = "the server sent no token, or no usage"
    return timing


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of every server-sent event until [DONE]."""
    for line in response:
        if line.startswith(b"data: "):
            if line.strip() == b"data: [DONE]":
                return
            yield json.loads(line[6:])
    raise ValueError("the stream ended without [DONE]")


def _time_pieces(events: Iterator[dict[str, Any]], timing: Timing, started: float) -> None:
    last = started
    for event in events:
        if "error" in event:
            raise ValueError(str(event["error"].get("message"))[:200])
        now = time.perf_counter()
        if event["choices"]:
            if timing.ttft:
                timing.itl.append(now - last)
            else:
                timing.ttft = now - started
            last, timing.e2el = now, now - started
        if usage := event.get("usage"):
            timing.num_prompt_tokens = usage["prompt_tokens"]
            timing.num_output_tokens = usage["completion_tokens"]


def run_all(
    target: Target,
    requests: Sequence[ServeRequest],
    *,
    request_rate: float,
    max_concurrency: int | None,
    seed: int,
    show_progress: bool,
) -> tuple[list[Timing], float]:
    """(the timing of every request, seconds from the first to the end of the last).

    Args:
        target: the server. requests: sent in this order.
        request_rate: per second, at random moments (a Poisson process); infinite = all at once.
        max_concurrency: no more than so many at a time; None = no limit. seed: of the moments.
        show_progress: draw a bar.
    """
    rng = random.Random(f"arrivals {seed}")
    num_threads = min(len(requests), max_concurrency or MAX_THREADS, MAX_THREADS)
    lock = threading.Lock()
    bar = tqdm(total=len(requests), disable=not show_progress, desc="requests", dynamic_ncols=True)

    def timed(request: ServeRequest) -> Timing:
        timing = ask(target, request)
        with lock:
            bar.update()
        return timing

    started = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as pool:
        futures = []
        due = started
        for request in requests:
            if request_rate != float("inf"):
                time.sleep(max(0.0, due - time.perf_counter()))
                due += rng.expovariate(request_rate)
            futures.append(pool.submit(timed, request))
        timings = [future.result() for future in futures]
    bar.close()
    return timings, time.perf_counter() - started
