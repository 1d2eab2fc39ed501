"""The memory policies by name."""

from __future__ import annotations

from collections.abc import Callable

from minivllm.sim.allocators import Allocator, BuddyAllocator, FirstFitAllocator
from minivllm.sim.policies.base import MemoryPolicy
from minivllm.sim.policies.contiguous import ContiguousPolicy, Guess, guess_max, guess_oracle, guess_pow2
from minivllm.sim.policies.doubling import DoublingPolicy
from minivllm.sim.policies.paged import PagedPolicy

__all__ = ["DESCRIPTIONS", "POLICIES", "make_policy"]

DESCRIPTIONS = {
    "max": "contiguous, max_model_len for everyone: Orca (Max)",
    "pow2": "contiguous, answer rounded to a power of two: Orca (Pow2)",
    "oracle": "contiguous, the true length, if one knew: Orca (Oracle)",
    "buddy": "contiguous, grown on demand: a full chunk is doubled",
    "paged": "blocks on demand: PagedAttention, on the engine's block pool",
    "max-first-fit": "max, first fit instead of a buddy allocator",
    "pow2-first-fit": "pow2, likewise",
    "oracle-first-fit": "oracle, likewise",
}
POLICIES = tuple(DESCRIPTIONS)
_GUESSES: dict[str, Guess] = {"max": guess_max, "pow2": guess_pow2, "oracle": guess_oracle}


def make_policy(name: str, capacity: int, *, block_size: int = 16, max_model_len: int = 2048) -> MemoryPolicy:
    """A policy over `capacity` empty token slots.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """
    if name not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {name!r}")
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, not {capacity}")
    if max_model_len < 1:
        raise ValueError(f"max_model_len must be at least 1, not {max_model_len}")
    if name == "paged":
        return PagedPolicy(capacity, block_size)
    if name == "buddy":
        return DoublingPolicy(capacity)
    guess, _, allocator_name = name.partition("-")
    make: Callable[[int], Allocator] = FirstFitAllocator if allocator_name else BuddyAllocator
    return ContiguousPolicy(name, make(capacity), _GUESSES[guess], max_model_len)
