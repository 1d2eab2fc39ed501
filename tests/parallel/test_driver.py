"""The driver's side of MultiprocExecutor, over stand-ins without torch: whatever a worker does, it is a sentence."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from minivllm import zoo
from minivllm.config import EngineConfig
from minivllm.model_config import ModelConfig
from minivllm.worker import multiproc_executor
from minivllm.worker.errors import WorkerError
from minivllm.worker.messages import Channel, Command, Reply, Sampled, Start, encode_reply
from minivllm.worker.model_runner import ModelRunnerOutput
from minivllm.worker.multiproc_executor import MultiprocExecutor

# A stand-in holds its socket, waits for the first command, and then does the one line that it was given.
STAND_IN = """
import os, signal, socket, sys, time
sock = socket.socket(fileno=int(sys.argv[1]))
def say(message):
    sock.sendall(len(message).to_bytes(4, "big") + message)
sock.recv(1)
exec(sys.argv[2])
while sock.recv(1 << 20):
    pass
"""
MISTAKE = json.dumps({"kind": "failed", "reason": "size must be even", "is_users_mistake": True})
WAITS = "pass"
SECONDS = 30


class WithStandIns(MultiprocExecutor):
    """Worker i does `lines[i]`."""

    lines: tuple[str, ...] = ()
    started: list[WithStandIns]
    alive_when_told: tuple[bool, ...] = ()

    def _spawn(self, num_local_ranks: int) -> None:
        self.started.append(self)
        ours, theirs = socket.socketpair()
        line = self.lines[len(self._processes)]
        command = [sys.executable, "-c", STAND_IN, str(theirs.fileno()), line]
        self._processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
        theirs.close()
        self._channels.append(Channel(ours))

    def _ask(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            return super()._ask(commands)
        finally:
            self.alive_when_told = tuple(process.poll() is None for process in self._processes)


@pytest.fixture
def start(in_time) -> Callable[..., None]:
    """start(line for worker 0, ...): in time, whatever they do."""
    return lambda *lines, **options: in_time(lambda: start_workers(*lines, **options), SECONDS)


def start_workers(*lines: str, replica: int = 0, **sizes: int) -> None:
    """Start an engine's workers, and see that nothing of them is left when that fails."""
    WithStandIns.lines, WithStandIns.started = lines, []
    config = EngineConfig(
        "tutor", tensor_parallel_size=len(lines), distributed_executor_backend="mp", **sizes
    )
    try:
        WithStandIns(config, ModelConfig.from_pretrained(zoo.path("tutor")), 32, replica=replica)
    finally:
        executor = WithStandIns.started[0]
        assert not any(executor.alive_when_told), "whoever is told of a failure finds the others gone"
        assert [process.poll() is None for process in executor._processes] == [False] * len(lines)
        assert not Path(executor._folder.name).exists()
        assert all(channel.sock.fileno() == -1 for channel in executor._channels)
        executor._watcher.join(5)
        assert executor._watcher not in threading.enumerate()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sys.exit(3)", r"^worker 1 \(process \d+\) ended with exit status 3$"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"^worker 1 \(process \d+\) was ended by SIGSEGV"),
        ("sock.sendall(bytes(3) + b'9' + b'half'); sys.exit(4)", r"ended with exit status 4$"),
        ("say(b'hello')", r"worker 1 failed:\nit sent what is no reply: .*Invalid JSON"),
        ('say(b\'{"kind": "stop"}\')', r"worker 1 failed:\nit sent what is no reply: .*'started'"),
        (f"say({encode_reply(Sampled(ModelRunnerOutput()))!r})", r"output of a step that nobody waits for$"),
        ('say(b\'{"kind": "failed", "reason": "a traceback"}\')', r"^worker 1 failed:\na traceback$"),
    ],
)
def test_a_worker_that_fails_ends_the_others_and_is_named(line, sentence, start):
    with pytest.raises(WorkerError, match=f"(?s){sentence}"):
        start(WAITS, line)


def test_a_users_mistake_is_a_value_error_with_the_workers_own_sentence(start):
    with pytest.raises(ValueError, match="^size must be even$"):
        start(f"say({MISTAKE.encode()!r})", WAITS)


def test_of_two_that_fail_the_killed_one_is_the_cause(start, monkeypatch):
    """A rank whose peer was killed fails as well, and may be heard first."""
    monkeypatch.setattr(multiproc_executor, "SECONDS_FOR_CAUSE", 1.0)  # this machine may be busy
    failed = 'say(b\'{"kind": "failed", "reason": "my peer is gone"}\')'
    with pytest.raises(WorkerError, match=r"^worker 1 \(process \d+\) was ended by SIGKILL"):
        start(failed, "time.sleep(0.1); os.kill(os.getpid(), signal.SIGKILL)")


@pytest.fixture
def started(monkeypatch) -> list[Start]:
    """What the workers are told first; then the start comes to nothing."""
    told: list[Start] = []

    def ask(self, commands):
        told.extend(commands)
        raise RuntimeError("enough")

    monkeypatch.setattr(WithStandIns, "_ask", ask)
    return told


def test_a_replicas_ranks_take_the_devices_behind_those_of_the_replicas_before_it(start, started):
    with pytest.raises(RuntimeError, match="enough"):
        start(*['say(b\'{"kind": "stopped"}\')'] * 2, replica=1, data_parallel_size=3)
    places = [command.place for command in started]
    assert [(place.rank, place.local_rank, place.num_local_ranks) for place in places] == [
        (0, 2, 6),
        (1, 3, 6),
    ]
    assert len({place.rendezvous for place in places}) == 1


def test_a_worker_that_does_not_end_is_ended(start, started, monkeypatch):
    monkeypatch.setattr(multiproc_executor, "SECONDS_TO_END", 0.2)
    with pytest.raises(RuntimeError, match="enough"):
        start("while True: time.sleep(1)")
    assert WithStandIns.started[0]._processes[0].returncode == -signal.SIGKILL
