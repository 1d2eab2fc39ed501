"""Executors: where a step runs. One process or many stand behind the same few methods."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.core.swap import PreemptionCosts
from minivllm.parallel.plan import Plan, check_plan
from minivllm.parts import REFERENCE, Parts
from minivllm.worker.model_runner import ModelRunnerOutput
from minivllm.worker.worker import RankReport


class Executor(Protocol):
    """Runs steps, in the order in which they are given."""

    num_blocks: int
    num_swap_blocks: int
    preemption_costs: PreemptionCosts
    max_concurrent_batches: int  # steps that may be under way at once: one for each pipeline stage

    def initialize_kv_cache(self, max_model_len: int) -> None:
        """Allocate the memory behind the blocks, on every rank."""

    def execute_model(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        """Start a step. The future raises WorkerError if a rank fails."""

    def report(self, clear: bool = False, tracing: bool = False) -> list[RankReport]:
        """What each rank holds and has done."""

    def check_health(self) -> None:
        """Raise WorkerError if a rank has failed, also while nothing runs."""

    def shutdown(self) -> None:
        """End every process that this executor started."""


def make_executor(
    config: EngineConfig,
    model_config: ModelConfig,
    max_model_len: int,
    parts: Parts = REFERENCE,
    replica: int = 0,
) -> Executor:
    """The executor that the configuration asks for; `replica` is its number among data parallel copies.

    Raises:
        ValueError: the model cannot be divided so, or the processes cannot be had.
    """
    check_plan(Plan(config.tensor_parallel_size, config.pipeline_parallel_size), model_config)
    arguments = (config, model_config, max_model_len, parts)
    match config.executor_backend:
        case "uni":
            from minivllm.worker.uniproc_executor import UniprocExecutor

            return UniprocExecutor(*arguments)
        case "mp":
            from minivllm.worker.multiproc_executor import MultiprocExecutor

            return MultiprocExecutor(*arguments, replica)
        case "external_launcher":
            from minivllm.worker.external_executor import ExternalLauncherExecutor

            return ExternalLauncherExecutor(*arguments)
        case _:
            from minivllm.worker.ray_executor import RayExecutor

            return RayExecutor(*arguments, replica)
