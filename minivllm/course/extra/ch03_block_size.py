"""Choosing a block size from the lengths of a trace: what a size wastes, and the largest that wastes little enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def empty_slots(num_tokens: int, block_size: int) -> int:
    """Slots of a request's blocks that hold nothing, when it has written `num_tokens` (>= 1) tokens."""
    return -num_tokens % block_size


def waste_share(requests: Sequence[tuple[int, int]], block_size: int) -> float:
    """The share of all allocated slots that are empty, over all steps of all requests, 0..1.

    Args:
        requests: (prompt, output) lengths, both at least 1. A request lives for `output` steps: it has written its
            prompt after the first, and one token more after each that follows.
        block_size: tokens of a block.
    """
    lengths = [num_tokens for prompt, output in requests for num_tokens in range(prompt, prompt + output)]
    empty = sum(empty_slots(num_tokens, block_size) for num_tokens in lengths)
    return empty / (sum(lengths) + empty)


def choose_block_size(
    requests: Sequence[tuple[int, int]], block_sizes: Iterable[int], max_share: float
) -> int | None:
    """The largest of `block_sizes` whose waste share is at most `max_share`; None if none is good enough.

    Large blocks make short block tables and long stretches of memory to read, so the largest is wanted that is not too
    wasteful.
    """
    fitting = [size for size in block_sizes if waste_share(requests, size) <= max_share]
    return max(fitting, default=None)
