"""Exercise 4.4: Debug: wrong once in sixteen."""

from __future__ import annotations


def pieces(start: int, stop: int, block_size: int) -> list[tuple[int, int, int]]:
    """The parts of positions [start, stop) that lie in one block each, in order; start < stop.

    Returns:
        (logical block, first offset in it, offset behind the last) for each part; none is empty.
    """
    parts = []
    for logical in range(start // block_size, -(-stop // block_size)):
        begin = logical * block_size
        first = max(start, begin) - begin
        behind = min(stop, begin + block_size) - begin
        parts.append((logical, first, behind))
    return parts
