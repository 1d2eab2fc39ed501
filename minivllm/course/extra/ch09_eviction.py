"""The eviction order as a rule: which block is reused first, said in one sort key.

The free queue of `minivllm/core/block_pool.py` keeps this order without ever sorting. This is the statement of what it
keeps, to be tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockRecord:
    """What is known of a block when somebody needs memory."""

    block_id: int
    ref_cnt: int  # block tables that hold it
    is_findable: bool  # the prefix cache knows its content
    freed_at: int  # the number of the call of `free` that gave back its last reference; 0 = never used
    index: int  # its place in the block table that was freed; 0 = first


def eviction_order(blocks: Sequence[BlockRecord]) -> list[int]:
    """The ids of the blocks that may be reused, the first victim first."""

    def rank(block: BlockRecord) -> tuple[bool, int, int, int]:
        age = block.freed_at if block.is_findable else -block.freed_at
        return block.is_findable, age, -block.index, block.block_id

    free = [block for block in blocks if block.ref_cnt == 0]
    return [block.block_id for block in sorted(free, key=rank)]


def lost_content(blocks: Sequence[BlockRecord], num_blocks: int) -> list[int]:
    """The ids of the findable blocks that are evicted when `num_blocks` blocks are taken, in the order of eviction.

    AssertionError if fewer are free.
    """
    order = eviction_order(blocks)
    assert num_blocks <= len(order), f"asked for {num_blocks} of {len(order)} free blocks"
    findable = {block.block_id for block in blocks if block.is_findable}
    return [block_id for block_id in order[:num_blocks] if block_id in findable]
