"""Exercise 5.5: Copy on write."""

from __future__ import annotations

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_table import BlockTable, cdiv
from minivllm.parts import Allocator


def shared_blocks(table: BlockTable, start: int, stop: int) -> list[int]:
    """Logical indices of blocks that positions [start, stop) would write into and that somebody else holds, too.

    The table may end before `stop`: blocks that are yet to be added are nobody else's.
    """
    last = min(len(table), cdiv(stop, table.block_size))
    return [index for index in range(start // table.block_size, last) if table[index].ref_cnt > 1]


def copy_on_write(pool: Allocator, table: BlockTable, index: int, target: KVCacheBlock) -> tuple[int, int]:
    """Put `target`, a new block with one reference, in the place of the shared block at logical `index`.

    Returns:
        (source, target): the block ids of the copy that has to be made before anything is written into `target`.
    """
    source = table.replace(index, target)
    pool.free_blocks([source])  # others still hold it: it cannot become free here
    return source.block_id, target.block_id
