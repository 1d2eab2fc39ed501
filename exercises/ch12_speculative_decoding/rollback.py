"""Exercise 12.3: Take rejected drafts back. (implement, about 15 minutes)

A step that verifies drafts writes keys and values for all of them, before anybody knows which are
right. Afterwards some blocks may hold nothing but rejected drafts. Two functions put that in order.

`num_rejected`: a step verified `num_drafts` drafts, and `num_sampled` tokens came out of it: the
drafts that were kept, and one more, which the model said itself. How many drafts were rejected?

`trim_table`: only the first `num_tokens` tokens count. Return the block table of these, and give
the blocks behind them back to the pool, the last one first.

Check: python -m minivllm.course check 12.3     (or: python -m pytest exercises/ch12_speculative_decoding/rollback.py)
Stuck: python -m minivllm.course hint 12.3
"""

from __future__ import annotations

from minivllm.core.block_table import BlockTable, cdiv
from minivllm.parts import Allocator


def num_rejected(num_drafts: int, num_sampled: int) -> int:
    """How many of a step's drafts were not kept, if it sampled `num_sampled` tokens: those kept, and one more."""
    raise NotImplementedError("exercise 12.3: num_rejected")


def trim_table(pool: Allocator, table: BlockTable, num_tokens: int) -> BlockTable:
    """The table of the first `num_tokens` tokens. The blocks behind them are given back, the last one first."""
    raise NotImplementedError("exercise 12.3: trim_table")
