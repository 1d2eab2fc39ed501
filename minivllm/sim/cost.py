"""CostModel: how long a step takes, without computing it. A + b * tokens + c * context.

    a   every step reads all weights once, whatever it computes
    b   every token in the step costs its share of arithmetic
    c   every token of context that a request in the step looks back at is read from the KV cache

The default constants are those of OPT-13B in 16 bits on an A100 with 40 GB, the machine of the PagedAttention paper
(SOSP 2023, section 6.1), at the rates printed on its data sheet: 1,555 GB/s of memory bandwidth, 312 TFLOP/s. They are
arithmetic, not a measurement; a real engine reaches a part of these rates, and overlaps some of what is added up here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_PARAMETERS = 13e9
_BYTES_PER_SECOND = 1555e9
_FLOPS_PER_SECOND = 312e12
KV_BYTES_PER_TOKEN = 2 * 40 * 5120 * 2  # keys and values, 40 layers, 5,120 wide, 2 bytes: 800 KiB
KV_CAPACITY = (
    12 * 2**30 // KV_BYTES_PER_TOKEN
)  # token slots in 12 GiB, what is left beside the weights: 15,728


@dataclass(frozen=True)
class CostModel:
    """Seconds per step, per token computed, and per token of context read.

    Raises:
        ValueError: a constant is negative or not finite, or all are 0.
    """

    per_step: float = 2 * _PARAMETERS / _BYTES_PER_SECOND  # a: 2 bytes per parameter = 16.7 ms
    per_token: float = 2 * _PARAMETERS / _FLOPS_PER_SECOND  # b: 2 operations per parameter = 83 us
    per_context_token: float = KV_BYTES_PER_TOKEN / _BYTES_PER_SECOND  # c: 0.53 us

    def __post_init__(self) -> None:
        for name in ("per_step", "per_token", "per_context_token"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of seconds, at least 0, not {value!r}")
        if self.per_step + self.per_token == 0:
            raise ValueError("per_step and per_token must not both be 0: a step would take no time")

    def step_time(self, num_scheduled: Mapping[str, int], num_computed: Mapping[str, int]) -> float:
        """Seconds for one step.

        Args:
            num_scheduled: request id -> tokens to compute.
            num_computed: request id -> tokens in the cache before the step.
        """
        tokens = sum(num_scheduled.values())
        context = sum(num_computed[request_id] + number for request_id, number in num_scheduled.items())
        return self.per_step + self.per_token * tokens + self.per_context_token * context
