"""Exercise 9.3: The eviction order. (implement, about 25 minutes)

A block whose last reference is given back stays where it is, with its content, until somebody needs
the memory. Then the block that is least likely to be asked for again should go first. Write the
rule down:

    1. A block that somebody holds is never evicted.
    2. What the prefix cache cannot find is worth nothing: it goes before all that can be found.
       Of these, what was given back last goes first. (A block that was never used counts as given
       back at time 0, so it goes last of them.)
    3. Of what can be found, what was given back longest ago goes first: least recently used.
    4. Of blocks that were given back in the same call, the tail goes before the head. A block is
       found only through all blocks before it: without the head the tail would be worth nothing.
    5. Where all this is equal, the lower number goes first.

The free queue of chapter 05 keeps this order without sorting. The check plays random histories on
it and compares.

Check: python -m minivllm.course check 9.3     (or: python -m pytest exercises/ch09_prefix_caching/eviction.py)
Stuck: python -m minivllm.course hint 9.3
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
    raise NotImplementedError("exercise 9.3: eviction_order")


def lost_content(blocks: Sequence[BlockRecord], num_blocks: int) -> list[int]:
    """The ids of the findable blocks that are evicted when `num_blocks` blocks are taken, in the order of eviction.

    AssertionError if fewer are free.
    """
    raise NotImplementedError("exercise 9.3: lost_content")
