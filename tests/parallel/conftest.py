"""Tiny random models of every family, and workers that are started once and lent to one engine after another."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minivllm import LLM, SamplingParams
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
    "initializer_range": 0.25,  # large, so that the next token depends on the whole context and near-ties are rare
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=6)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES | {"num_key_value_heads": 1}, tie_word_embeddings=True)),
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config(**SIZES | {"num_key_value_heads": 4}, head_dim=16, tie_word_embeddings=True),
    ),
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
    for name, (cls, config) in FAMILIES.items():
        torch.manual_seed(3)
        model = cls(config).float()
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.data.uniform_(0.5, 1.5)
            elif parameter_name.endswith("bias"):
                parameter.data.normal_(std=0.2)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
    return folders


class Pool:
    """Worker processes that outlive the executor that used them. Loading torch takes seconds, a model milliseconds."""

    def __init__(self) -> None:
        self.idle: list[tuple[subprocess.Popen[bytes], Channel]] = []

    def take(self) -> tuple[subprocess.Popen[bytes], Channel]:
        if self.idle:
            return self.idle.pop()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "minivllm.worker.worker_process", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        return process, Channel(ours)

    def close(self) -> None:
        for process, channel in self.idle:
            channel.hang_up()
            process.wait(10)


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool()
    pool.idle = [pool.take() for _ in range(4)]  # they load side by side
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
