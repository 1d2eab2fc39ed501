"""Exercise 5.4: Fork."""

from __future__ import annotations

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
