"""Worker: one rank's part in everything. It loads its share of the model, sizes its KV cache, and runs steps.

Every executor has the same Worker behind it; they differ only in how the orders reach it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.core.swap import PreemptionCosts
from minivllm.layers.packed import num_weights
from minivllm.parallel.comm_log import CommEvent, CommLog
from minivllm.parallel.distributed import Connection, connect
from minivllm.parallel.group import ONE_STAGE, SINGLE
from minivllm.parallel.plan import Plan
from minivllm.parts import REFERENCE, Parts
from minivllm.worker.device import resolve_device, resolve_dtype
from minivllm.worker.kv_cache import bytes_per_block, determine_num_blocks, num_swap_blocks
from minivllm.worker.model_runner import ModelRunner, ModelRunnerOutput

# Round figures for the cost rule of preemption mode `auto`: a laptop's CPU and memory; a data-centre GPU and PCIe 4.
OPERATIONS_PER_SECOND = {"cpu": 1e11, "cuda": 2e14}
BYTES_PER_SECOND = {"cpu": 5e9, "cuda": 2e10}


@dataclass(frozen=True)
class Place:
    """Where a rank stands."""

    rank: int = 0  # among those that share the model
    local_rank: int = 0  # among those on this machine: which device
    num_local_ranks: int = 1  # how many share this machine's memory
    rendezvous: str | None = None  # where the ranks meet; None: they have met, or there is only one


@dataclass(frozen=True)
class Capacity:
    """What a rank can hold."""

    num_blocks: int
    num_swap_blocks: int
    preemption_costs: PreemptionCosts

    @staticmethod
    def of_all(ranks: Sequence[Capacity]) -> Capacity:
        """What all of them can hold: every block has a part on every rank. The slowest rank sets the costs."""
        costs = [capacity.preemption_costs for capacity in ranks]
        return Capacity(
            num_blocks=min(capacity.num_blocks for capacity in ranks),
            num_swap_blocks=min(capacity.num_swap_blocks for capacity in ranks),
            preemption_costs=PreemptionCosts(
                recompute_per_token=max(cost.recompute_per_token for cost in costs),
                swap_per_block=max(cost.swap_per_block for cost in costs),
            ),
        )


@dataclass(frozen=True)
class RankReport:
    """What a rank holds and has done since the last report that cleared the counts."""

    rank: int
    pid: int
    num_parameters: int
    parameter_bytes: int
    kv_cache_bytes: int
    private_bytes: (
        int | None
    )  # memory of this process that no file backs; None where the system does not tell
    num_steps: int
    step_seconds: float  # in steps, communication included
    comm_count: Mapping[str, int]
    comm_bytes: Mapping[str, int]
    comm_seconds: Mapping[str, float]
    events: Sequence[CommEvent]
    known_token_ids: Mapping[str, Sequence[int]]  # request id -> tokens, as this rank knows them


class Worker:
    """One rank."""

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        max_model_len: int,
        parts: Parts = REFERENCE,
        place: Place = Place(),
    ) -> None:
        self.place = place
        self.device = resolve_device(config.device, place.local_rank)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.dtype = resolve_dtype(config.dtype, model_config, self.device)
        plan = Plan(config.tensor_parallel_size, config.pipeline_parallel_size)
        if plan.world_size == 1:
            connection = Connection(SINGLE, ONE_STAGE, CommLog())
        else:
            connection = connect(plan, place.rank, self.device, place.rendezvous)
        self.log = connection.log
        self.runner = ModelRunner(
            config, model_config, self.dtype, self.device, parts, connection.tp, connection.pp
        )
        specs = self.runner.kv_cache_specs()
        self.capacity = Capacity(
            determine_num_blocks(config, specs, max_model_len, self.device, place.num_local_ranks),
            num_swap_blocks(config, specs),
            PreemptionCosts(
                recompute_per_token=2 * self.num_parameters / OPERATIONS_PER_SECOND[self.device.type],
                swap_per_block=bytes_per_block(specs, config.block_size) / BYTES_PER_SECOND[self.device.type],
            ),
        )
        self.is_output_rank = place.rank == plan.output_rank
        self._num_steps, self._step_seconds = 0, 0.0

    @property
    def num_parameters(self) -> int:
        """Weights; a word of a 4-bit checkpoint holds eight."""
        parameters = self.runner.model.parameters()
        return sum(num_weights(p) * (8 if p.dtype == torch.int32 else 1) for p in parameters)

    def initialize_kv_cache(self, num_blocks: int, num_swap_blocks: int, max_model_len: int) -> None:
        """Allocate the memory behind the blocks."""
        self.runner.initialize_kv_cache(num_blocks, num_swap_blocks, max_model_len)

    def execute_model(
        self, scheduler_output: SchedulerOutput, sampled: Sequence[Mapping[str, Sequence[int]]] = ()
    ) -> ModelRunnerOutput:
        """Run one step. `sampled`: what the last stage has sampled since the last call, for the stages before it."""
        start = time.monotonic()
        for tokens in sampled:
            self.runner.take_sampled(tokens)
        output = self.runner.execute_model(scheduler_output)
        self._num_steps += 1
        self._step_seconds += time.monotonic() - start
        return output

    def report(self, clear: bool = False, tracing: bool = False) -> RankReport:
        """Tell what this rank holds and has done; `clear` begins to count anew, `tracing` also keeps every message."""
        parameters = list(self.runner.model.parameters())
        caches = [tensor for cache in self.runner.kv_caches for tensor in cache]
        log = self.log
        report = RankReport(
            rank=self.place.rank,
            pid=os.getpid(),
            num_parameters=self.num_parameters,
            parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
            kv_cache_bytes=sum(t.numel() * t.element_size() for t in caches),
            private_bytes=_private_bytes(),
            num_steps=self._num_steps,
            step_seconds=self._step_seconds,
            comm_count=dict(log.count),
            comm_bytes=dict(log.num_bytes),
            comm_seconds=dict(log.seconds),
            events=list(log.events),
            known_token_ids=self.runner.batch.known_token_ids(),
        )
        if clear:
            log.clear()
            self._num_steps, self._step_seconds = 0, 0.0
        log.is_tracing = tracing
        return report


def _private_bytes() -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) * 1024 if lines else None
