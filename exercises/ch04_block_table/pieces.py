"""Exercise 4.4: Debug: wrong once in sixteen. (debug, about 10 minutes)

A chunk of a prompt covers positions [start, stop). To write it, one must know what it does to each
block. This function cuts the run at block boundaries, and it is wrong, but only now and then. Find
the case, understand it, and change as little as you can.

    pieces(6, 13, 4) -> [(1, 2, 4), (2, 0, 4), (3, 0, 1)]     positions 6-7, 8-11 and 12


Check: python -m minivllm.course check 4.4     (or: python -m pytest exercises/ch04_block_table/pieces.py)
Stuck: python -m minivllm.course hint 4.4
"""

from __future__ import annotations


def pieces(start: int, stop: int, block_size: int) -> list[tuple[int, int, int]]:
    """The parts of positions [start, stop) that lie in one block each, in order; start < stop.

    Returns:
        (logical block, first offset in it, offset behind the last) for each part; none is empty.
    """
    parts = []
    for logical in range(start // block_size, stop // block_size + 1):
        begin = logical * block_size
        first = max(start, begin) - begin
        behind = min(stop, begin + block_size) - begin
        parts.append((logical, first, behind))
    return parts
