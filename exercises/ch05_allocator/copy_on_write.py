"""Exercise 5.5: Copy on write. (implement, about 20 minutes)

A request is about to write tokens at positions [start, stop). Where that hits a block that somebody
else holds, too, it first needs a copy of its own, or it would write into the other's tokens.

`shared_blocks` says which entries of its block table are concerned. `copy_on_write` puts a new
block in the place of one of them, gives the reference to the old block back, and returns (source,
target), so that the worker copies the content.

Check: python -m minivllm.course check 5.5     (or: python -m pytest exercises/ch05_allocator/copy_on_write.py)
Stuck: python -m minivllm.course hint 5.5
"""

from __future__ import annotations

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_table import BlockTable, cdiv
from minivllm.parts import Allocator


def shared_blocks(table: BlockTable, start: int, stop: int) -> list[int]:
    """Logical indices of blocks that positions [start, stop) would write into and that somebody else holds, too.

    The table may end before `stop`: blocks that are yet to be added are nobody else's.
    """
    raise NotImplementedError("exercise 5.5: shared_blocks")


def copy_on_write(pool: Allocator, table: BlockTable, index: int, target: KVCacheBlock) -> tuple[int, int]:
    """Put `target`, a new block with one reference, in the place of the shared block at logical `index`.

    Returns:
        (source, target): the block ids of the copy that has to be made before anything is written into `target`.
    """
    raise NotImplementedError("exercise 5.5: copy_on_write")
