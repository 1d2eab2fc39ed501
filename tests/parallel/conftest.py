"""Tiny random models of every family, and workers that are forked from a template and lent to one engine after another.

Loading torch takes a process seconds, and a model of these milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from minivllm import LLM, SamplingParams
from minivllm.layers.context import LayerContext
from minivllm.model_config import ModelConfig
from minivllm.models.decoder import DecoderModel
from minivllm.ops import attention_backend
from minivllm.outputs import CompletionOutput
from minivllm.worker import multiproc_executor
from minivllm.worker.messages import Channel
from minivllm.worker.multiproc_executor import MultiprocExecutor

SIZES = {
    "vocab_size": 101,  # divides by nothing
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,  # an odd number for two stages
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "attention_bias": True, "mlp_bias": True},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 6},
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "num_key_value_heads": 4,
        "head_dim": 16,
        "tie_word_embeddings": True,
    },
}
ENGINE = {
    "num_gpu_blocks_override": 24,  # not enough for all at once: somebody is preempted
    "max_num_seqs": 8,
    "block_size": 4,
    "max_num_batched_tokens": 24,
    "max_model_len": 32,
}
PROMPTS = [[1, 2, 3, 4, 5] * 3, [7] * 20, [9, 8, 7], [1, 2, 3, 4, 5] * 3 + [6]]
GREEDY = SamplingParams(temperature=0, max_tokens=8)
SEEDED = SamplingParams(temperature=1, top_p=0.9, seed=5, max_tokens=8, logprobs=2)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Family -> the folder of a random model."""
    folders = {}
    for name, family in FAMILIES.items():
        folders[name] = tmp_path_factory.mktemp(name)
        (folders[name] / "config.json").write_text(json.dumps(SIZES | family))
        config = ModelConfig.from_pretrained(folders[name])
        slots = DecoderModel(config, LayerContext(), attention_backend("torch")).weight_slots()
        torch.manual_seed(3)
        weights = {name: random_weight(name, slot.shape) for name, slot in slots.items()}
        save_file(weights, folders[name] / "model.safetensors")
    return folders


def random_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Large ones, so that the next token depends on the whole context and near-ties are rare."""
    if "norm" in name:
        return torch.empty(shape).uniform_(0.5, 1.5)
    return torch.randn(shape) * (0.2 if name.endswith("bias") else 0.25)


# Loads what a worker loads, once, and forks a worker for every socket that it is sent. It has no threads that a fork
# could lose. How a worker is started for real is in test_server.py.
TEMPLATE = """
import os, socket, sys
from minivllm.worker import worker_process
control = socket.socket(fileno=int(sys.argv[1]))
while True:
    order, fds, _, _ = socket.recv_fds(control, 64, 1)
    if not order:
        os._exit(0)
    if not fds:
        pid, status = os.waitpid(int(order), os.WNOHANG)
        control.sendall(b"%d" % (os.waitstatus_to_exitcode(status) if pid else 999))
        continue
    pid = os.fork()
    if pid == 0:
        control.close()
        sys.argv[1] = str(fds[0])
        worker_process.main()
    os.close(fds[0])
    control.sendall(b"%d" % pid)
"""
STILL_RUNNING = 999


class Template:
    """The process behind TEMPLATE."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        command = [sys.executable, "-c", TEMPLATE, str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self.lock = threading.Lock()

    def fork(self) -> tuple[Forked, Channel]:
        ours, theirs = socket.socketpair()
        with self.lock, theirs:
            socket.send_fds(self.control, [b"fork"], [theirs.fileno()])
            return Forked(self, int(self.control.recv(64))), Channel(ours)

    def status_of(self, pid: int) -> int | None:
        with self.lock:
            self.control.sendall(b"%d" % pid)
            status = int(self.control.recv(64))
        return None if status == STILL_RUNNING else status

    def close(self) -> None:
        self.control.close()
        self.process.wait(10)


class Forked:
    """What an executor uses of Popen, for a process that the template has forked."""

    def __init__(self, template: Template, pid: int) -> None:
        self.template, self.pid = template, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.template.status_of(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.005)
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Pool:
    """Worker processes that outlive the executor that used them."""

    def __init__(self) -> None:
        self.template = Template()
        self.idle: list[tuple[Forked, Channel]] = []

    def take(self) -> tuple[Forked, Channel]:
        return self.idle.pop() if self.idle else self.template.fork()

    def close(self) -> None:
        for process, channel in self.idle:
            channel.hang_up()
            process.wait(10)
            channel.close()
        self.template.close()


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def lent_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every MultiprocExecutor takes its workers from the pool, and gives those back that are still good."""

    class PooledExecutor(MultiprocExecutor):
        def _spawn(self, num_local_ranks: int) -> None:
            process, channel = pool.take()
            self._processes.append(process)
            self._channels.append(channel)

        def _end_processes(self) -> None:
            if self._error is None:
                pool.idle += zip(self._processes, self._channels, strict=True)
            else:
                super()._end_processes()

    monkeypatch.setattr(multiproc_executor, "MultiprocExecutor", PooledExecutor)


@pytest.fixture
def make_llm(lent_workers: None) -> Iterator[Callable[..., LLM]]:
    """make_llm(model, **sizes): an LLM over workers of the pool, which has them back when the test is over."""
    made = []

    def make(model: Path, **sizes: Any) -> LLM:
        made.append(LLM(str(model), **ENGINE | sizes))
        return made[-1]

    yield make
    for llm in made:
        llm.llm_engine.shutdown()


@pytest.fixture(scope="session")
def ask() -> Callable[[LLM], list[CompletionOutput]]:
    """ask(llm): the answers to every prompt, greedy and sampled, all in one batch."""

    def answers(llm: LLM) -> list[CompletionOutput]:
        params = [one for _ in PROMPTS for one in (GREEDY, SEEDED)]
        prompts = [prompt for prompt in PROMPTS for _ in range(2)]
        return [output.outputs[0] for output in llm.generate(prompts, params, use_tqdm=False)]

    return answers


@pytest.fixture(scope="session")
def expected(models, ask) -> dict[str, list[CompletionOutput]]:
    """Family -> what one process says."""
    return {name: ask(LLM(str(folder), **ENGINE)) for name, folder in models.items()}


@pytest.fixture(scope="session")
def small_engine() -> tuple[list[list[int]], dict[str, int]]:
    """The prompts of `ask`, and the engine's settings."""
    return PROMPTS, ENGINE


@pytest.fixture(scope="session")
def in_time() -> Callable[[Callable[[], Any], float], Any]:
    """in_time(work, seconds): what `work` returns or raises. A hang is a TimeoutError, and not the end of the suite."""

    def run(work: Callable[[], Any], seconds: float) -> Any:
        future: Future[Any] = Future()

        def fill() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  handed on
                future.set_exception(error)

        threading.Thread(target=fill, daemon=True).start()
        return future.result(seconds)

    return run
