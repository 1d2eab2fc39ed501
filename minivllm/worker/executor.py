"""Executors: where a step runs. One process here; several processes stand behind the same three methods."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

import torch

from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.core.swap import PreemptionCosts
from minivllm.hardware import has_bfloat16_units
from minivllm.worker.kv_cache import bytes_per_block, determine_num_blocks, num_swap_blocks
from minivllm.worker.model_runner import ModelRunner, ModelRunnerOutput

# Round figures for the cost rule of preemption mode `auto`: a laptop's CPU and memory; a data-centre GPU and PCIe 4.
OPERATIONS_PER_SECOND = {"cpu": 1e11, "cuda": 2e14}
BYTES_PER_SECOND = {"cpu": 5e9, "cuda": 2e10}


class Executor(Protocol):
    """Runs steps, in the order in which they are given."""

    num_blocks: int
    num_swap_blocks: int
    preemption_costs: PreemptionCosts

    def initialize_kv_cache(self, max_model_len: int) -> None: ...

    def execute_model(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]: ...

    def shutdown(self) -> None: ...


class UniprocExecutor:
    """The model in this process, on one device."""

    def __init__(self, config: EngineConfig, model_config: ModelConfig, max_model_len: int) -> None:
        self.device = resolve_device(config.device)
        self.dtype = resolve_dtype(config.dtype, model_config, self.device)
        self.runner = ModelRunner(config, model_config, self.dtype, self.device)
        specs = self.runner.model.kv_cache_specs()
        self.num_blocks = determine_num_blocks(config, specs, max_model_len, self.device)
        self.num_swap_blocks = num_swap_blocks(config, specs)
        num_parameters = sum(parameter.numel() for parameter in self.runner.model.parameters())
        self.preemption_costs = PreemptionCosts(
            recompute_per_token=2 * num_parameters / OPERATIONS_PER_SECOND[self.device.type],
            swap_per_block=bytes_per_block(specs, config.block_size) / BYTES_PER_SECOND[self.device.type],
        )

    def initialize_kv_cache(self, max_model_len: int) -> None:
        """Allocate the memory behind the blocks."""
        self.runner.initialize_kv_cache(self.num_blocks, self.num_swap_blocks, max_model_len)

    def execute_model(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        """Run the step now; the future is done when this returns."""
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(self.runner.execute_model(scheduler_output))
        return future

    def shutdown(self) -> None:
        """Nothing to end: there is no other process."""


def resolve_device(name: str) -> torch.device:
    """`auto` is cuda where there is one. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda[:index], not {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} was asked for, but torch sees no CUDA device here: use cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda[:index], not {name!r}")
    return device


def resolve_dtype(name: str, model_config: ModelConfig, device: torch.device) -> torch.dtype:
    """The type of weights, activations and KV cache.

    `auto` on a GPU is the checkpoint's (float32 checkpoints become bfloat16, as half the bytes are half the time); on
    a CPU it is float32, unless the CPU has units for bfloat16 and the model more than 100 million weights: then reading
    half the bytes counts for more than the conversions around each product.
    """
    if name == "auto":
        if device.type == "cpu":
            pays = model_config.num_params > 100e6 and has_bfloat16_units()
            return torch.bfloat16 if pays else torch.float32
        return torch.bfloat16 if model_config.dtype == "float32" else getattr(torch, model_config.dtype)
    return {"half": torch.float16, "float": torch.float32}.get(name) or getattr(torch, name)
