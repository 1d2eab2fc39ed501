"""ScheduleConfig: one set-up of the step simulator, and the only place that checks it."""

from __future__ import annotations

from dataclasses import dataclass, field

from minivllm.core.policies import POLICIES
from minivllm.core.scheduler import SchedulerConfig
from minivllm.sim.cost import KV_CAPACITY, CostModel

BATCHINGS = {
    "static": "a batch is let in when the last one has left",
    "continuous": "requests join and leave at every step, first come first",
    "priority": "continuous, and urgent requests push others aside",
    "shortest-first": "continuous, and whoever has the least work comes first",
}


@dataclass(frozen=True)
class ScheduleConfig:
    """One set-up. Defaults: the machine of `cost.py`.

    Raises:
        ValueError: a field out of range, or a step too small for what it has to hold.
    """

    batching: str = "continuous"  # one of BATCHINGS
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = False
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 2048
    max_model_len: int = 2048
    capacity: int = KV_CAPACITY  # token slots of the KV cache
    block_size: int = 16
    cost: CostModel = field(default_factory=CostModel)

    def __post_init__(self) -> None:
        if self.batching not in BATCHINGS:
            raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}, not {self.batching!r}")
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.capacity < self.block_size:
            raise ValueError(
                f"capacity ({self.capacity}) must hold at least one block of {self.block_size} tokens"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): every running request needs one token of each step"
            )
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_model_len "
                f"({self.max_model_len}) with whole prefill: a prompt is then computed in one step"
            )

    @property
    def label(self) -> str:
        """What tells set-ups apart in a table."""
        prefill = "chunked" if self.enable_chunked_prefill else "whole"
        is_static = self.batching == "static"
        how = f"batch {self.max_num_seqs}" if is_static else f"{prefill} {self.max_num_batched_tokens}"
        return f"{self.batching}, {how}{', cached' if self.enable_prefix_caching else ''}"

    def scheduler_config(self) -> SchedulerConfig:
        """The same, in the scheduler's words."""
        return SchedulerConfig(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            enable_chunked_prefill=self.enable_chunked_prefill,
            enable_static_batching=self.batching == "static",
            policy=self.batching if self.batching in POLICIES else "fcfs",
        )
