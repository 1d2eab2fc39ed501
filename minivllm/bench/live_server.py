"""A server in a process of its own, and what it tells about itself: gauges, blocks in use, memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from minivllm.bench.serve_client import Target

START_SECONDS = 300.0
_LISTENS = re.compile(r"Uvicorn running on (http://\S+) ")
_SAMPLE = re.compile(r"^([\w:]+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class ServerState:
    """How a server stands at one moment."""

    num_running: int
    num_waiting: int
    kv_cache_usage: float  # 0..1
    num_blocks: int  # without the null block
    num_blocks_in_use: int
    num_preemptions: int
    rss_bytes: int | None  # None where the system does not tell

    @property
    def is_idle(self) -> bool:
        """No request, and every block free."""
        return not (self.num_running or self.num_waiting or self.num_blocks_in_use or self.kv_cache_usage)


class LiveServer:
    """`python -m minivllm.serve` with `flags` on a free port, in a process of its own.

    It begins to start at once, which takes some seconds. A `with` block waits until it listens, gives its URL, and ends
    it. Without a block it ends with this object.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        command = [sys.executable, "-m", "minivllm.serve", *flags, "--port", "0"]
        self._log = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # _end closes it
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._end = weakref.finalize(self, _end, self._process, self._log)

    def __enter__(self) -> str:
        """Its URL.

        Raises:
            ValueError: it did not start, with the last lines of its log; or it was ended before.
        """
        if not self._end.alive:
            raise ValueError("this server has been ended: make a new LiveServer")
        with ExitStack() as unless_it_listens:
            unless_it_listens.callback(self._end)
            url = _wait_for_url(self._process, self._log)
            unless_it_listens.pop_all()
        return url

    def __exit__(self, *_: object) -> None:
        self._end()


def _end(process: subprocess.Popen[bytes], log: IO[str]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()


def _wait_for_url(process: subprocess.Popen[bytes], log: IO[str]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        log.seek(0)
        text = log.read()
        if match := _LISTENS.search(text):
            return match[1]
        if process.poll() is not None or time.monotonic() > deadline:
            raise ValueError("the server did not start:\n" + "\n".join(text.splitlines()[-5:]))
        time.sleep(0.1)


def get(target: Target, route: str) -> tuple[int, bytes]:
    """(status, body) of a GET.

    Raises:
        ValueError: the server cannot be reached.
    """
    connection = target.connect()
    try:
        connection.request("GET", target.path(route), headers=target.headers)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError as error:
        raise ValueError(f"{target.base_url} cannot be reached: {error}") from error
    finally:
        connection.close()


def read_state(target: Target) -> ServerState:
    """How the server stands, from /status and /metrics.

    Raises:
        ValueError: the server cannot be reached, or is none of ours.
    """
    status, body = get(target, "/status")
    if status != 200:
        raise ValueError(f"{target.base_url} has no /status, which this measurement needs: {body[:200]!r}")
    told = json.loads(body)
    metrics = {name: float(value) for name, value in _SAMPLE.findall(get(target, "/metrics")[1].decode())}
    rss = metrics.get("process_resident_memory_bytes")
    return ServerState(
        num_running=int(metrics["vllm:num_requests_running"]),
        num_waiting=int(metrics["vllm:num_requests_waiting"]),
        kv_cache_usage=metrics["vllm:kv_cache_usage_perc"],
        num_blocks=told["num_blocks"],
        num_blocks_in_use=told["num_blocks_in_use"],
        num_preemptions=int(metrics["vllm:num_preemptions_total"]),
        rss_bytes=None if rss is None else int(rss),
    )


def wait_until_idle(target: Target, seconds: float) -> ServerState:
    """The state as soon as the server is idle, or after `seconds`, whatever it is then."""
    deadline = time.monotonic() + seconds
    while not (state := read_state(target)).is_idle and time.monotonic() < deadline:
        time.sleep(0.05)
    return state
