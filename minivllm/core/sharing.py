"""Sharing blocks between requests: a fork takes references, and the first write into a shared block makes a copy.

Source: Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention" (SOSP 2023), section 4.4 and
figure 8. vLLM v1 shares by prefix hash instead.
"""

from __future__ import annotations

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_table import BlockTable, cdiv
from minivllm.parts import Allocator


def fork_table(pool: Allocator, parent: BlockTable, num_tokens: int) -> BlockTable:
    """A new table that shares the blocks of the parent's first `num_tokens` tokens. Nothing is copied.

    The last of these blocks may be half full: it is shared all the same, until somebody writes into it.
    """
    table = BlockTable(parent.block_size)
    table.append(parent[: cdiv(num_tokens, parent.block_size)])
    pool.touch(table)
    return table


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
