"""Exercise 5.4: Fork. (implement, about 10 minutes)

Two answers to one prompt begin with the same tokens, so they can share the blocks that hold them.
Build the block table of the new request: the same blocks, one more reference to each, no copy. Only
the first `num_tokens` tokens are shared, so blocks behind them stay the parent's alone.

Check: python -m minivllm.course check 5.4     (or: python -m pytest exercises/ch05_allocator/fork.py)
Stuck: python -m minivllm.course hint 5.4
"""

from __future__ import annotations

from minivllm.core.block_table import BlockTable, cdiv
from minivllm.parts import Allocator


def fork_table(pool: Allocator, parent: BlockTable, num_tokens: int) -> BlockTable:
    """A new table that shares the blocks of the parent's first `num_tokens` tokens. Nothing is copied.

    The last of these blocks may be half full: it is shared all the same, until somebody writes into it.
    """
    raise NotImplementedError("exercise 5.4: fork_table")
