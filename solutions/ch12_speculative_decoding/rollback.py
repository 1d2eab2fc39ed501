"""Exercise 12.3: Take rejected drafts back."""

from __future__ import annotations

from minivllm.core.block_table import BlockTable, cdiv
from minivllm.parts import Allocator


def num_rejected(num_drafts: int, num_sampled: int) -> int:
    """How many of a step's drafts were not kept, if it sampled `num_sampled` tokens: those kept, and one more."""
    return num_drafts + 1 - num_sampled


def trim_table(pool: Allocator, table: BlockTable, num_tokens: int) -> BlockTable:
    """The table of the first `num_tokens` tokens. The blocks behind them are given back, the last one first."""
    num_kept = cdiv(num_tokens, table.block_size)
    if num_kept >= len(table):
        return table
    kept = BlockTable(table.block_size)
    kept.append(table[:num_kept])
    pool.free_blocks(reversed(table[num_kept:]))
    return kept
