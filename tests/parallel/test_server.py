"""A server whose model is divided over processes of its own making, and what its clients see when one is killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
START_SECONDS, SECONDS = 120, 10
BODY = {
    "model": "tutor",
    "prompt": "Once upon a time",
    "max_tokens": 400,
    "temperature": 0,
    "ignore_eos": True,
}


@pytest.fixture
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(its address, its process)."""
    command = [sys.executable, "-m", "minivllm.serve", "tutor", "--port", "0", "--tensor-parallel-size", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    address: list[str] = []
    started = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"Uvicorn running on (http://\S+)", line):
                address.append(found[1])
                started.set()
        started.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        assert started.wait(START_SECONDS) and address, "".join(lines)
        yield address[0], process
    finally:
        process.kill()
        process.wait()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
def test_a_killed_worker_is_a_503_and_an_error_for_everyone_who_waits(server):
    address, process = server
    short = httpx.post(f"{address}/v1/completions", json=BODY | {"max_tokens": 3}, timeout=60)
    assert short.status_code == 200 and httpx.get(f"{address}/health").status_code == 200
    answers: list[httpx.Response | str] = []

    def client(stream: bool) -> None:
        if not stream:
            answers.append(httpx.post(f"{address}/v1/completions", json=BODY, timeout=60))
            return
        text = ""
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream(
                "POST", f"{address}/v1/completions", json=BODY | {"stream": True}, timeout=60
            ) as response,
        ):
            for piece in response.iter_text():
                text += piece
        answers.append(text)

    clients = [threading.Thread(target=client, args=(stream,)) for stream in (True, False, True, False)]
    for one in clients:
        one.start()
    time.sleep(0.5)  # they are in the midst of 400 tokens
    workers = children_of(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    deadline = time.monotonic() + SECONDS
    while httpx.get(f"{address}/health", timeout=SECONDS).status_code != 503:
        assert time.monotonic() < deadline, "the server does not notice"
        time.sleep(0.05)
    for one in clients:
        one.join(SECONDS)
        assert not one.is_alive(), "a client hangs"
    for answer in answers:
        if isinstance(answer, str):
            assert '"error"' in answer and '"finish_reason":"length"' not in answer
        else:
            assert answer.status_code >= 500 and "error" in answer.json()
    assert not any(map(is_alive, workers))
    refused = httpx.post(f"{address}/v1/completions", json=BODY, timeout=SECONDS)
    assert refused.status_code >= 500
