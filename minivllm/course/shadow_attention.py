"""The arguments of `paged_attention`, made small enough to be written into a test: one request and its own blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

NUM_ARGUMENTS = 7  # query, key_cache, value_cache, block_tables, seq_lens, query_start_loc, scale


def is_paged_batch(arguments: Sequence[Any]) -> bool:
    """Do these look like the arguments of `paged_attention`?"""
    shapes = [getattr(argument, "ndim", 0) for argument in arguments]
    return len(arguments) == NUM_ARGUMENTS and shapes[:4] == [3, 4, 4, 2]


def smaller_batch(arguments: Sequence[Any], differs: Callable[[Sequence[Any]], bool]) -> Sequence[Any]:
    """The first request for which it still differs alone, in a cache of its own blocks; all of it if there is none."""
    for request in range(len(arguments[4])):
        alone = _alone(arguments, request)
        if differs(alone):
            return alone
    return arguments


def _alone(arguments: Sequence[Any], request: int) -> Sequence[Any]:
    """One request. Its blocks lie in reverse order behind the null block, so that whoever forgets the table is seen."""
    query, key_cache, value_cache, block_tables, seq_lens, query_start_loc, scale = arguments
    begin, end = query_start_loc[request : request + 2].tolist()
    num_blocks = -(-int(seq_lens[request]) // key_cache.shape[1])
    blocks = [0, *reversed(block_tables[request, :num_blocks].tolist())]
    table = list(range(num_blocks, 0, -1))
    return [
        query[begin:end],
        key_cache[blocks],
        value_cache[blocks],
        block_tables.new_tensor([table]),
        seq_lens[request : request + 1],
        query_start_loc.new_tensor([0, end - begin]),
        scale,
    ]
