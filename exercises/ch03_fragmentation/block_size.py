"""Exercise 3.4: Choose a block size. (implement, about 20 minutes)

You run a server and know what your users send. Which block size? Small blocks waste little. Large
blocks make short block tables, and the attention kernel reads long stretches of memory. So: the
largest block size that does not waste too much.

Three steps. How many slots are empty in the blocks of one request, at one moment? What share of all
allocated slots is empty, over the whole lives of many requests? And which block size follows?

A request with a prompt of 5 and an output of 3 lives for 3 steps, in which it has written 5, 6 and
7 tokens. With blocks of 4 it holds 8 slots all the time, so 3 + 2 + 1 = 6 of its 24 slot-steps are
empty: a share of 1/4.

Check: python -m minivllm.course check 3.4     (or: python -m pytest exercises/ch03_fragmentation/block_size.py)
Stuck: python -m minivllm.course hint 3.4
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def empty_slots(num_tokens: int, block_size: int) -> int:
    """Slots of a request's blocks that hold nothing, when it has written `num_tokens` (>= 1) tokens."""
    raise NotImplementedError("exercise 3.4: empty_slots")


def waste_share(requests: Sequence[tuple[int, int]], block_size: int) -> float:
    """The share of all allocated slots that are empty, over all steps of all requests, 0..1.

    Args:
        requests: (prompt, output) lengths, both at least 1. A request lives for `output` steps: it has written its
            prompt after the first, and one token more after each that follows.
        block_size: tokens of a block.
    """
    raise NotImplementedError("exercise 3.4: waste_share")


def choose_block_size(
    requests: Sequence[tuple[int, int]], block_sizes: Iterable[int], max_share: float
) -> int | None:
    """The largest of `block_sizes` whose waste share is at most `max_share`; None if none is good enough.

    Large blocks make short block tables and long stretches of memory to read, so the largest is wanted that is not too
    wasteful.
    """
    raise NotImplementedError("exercise 3.4: choose_block_size")
