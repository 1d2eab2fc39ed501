"""Exercise 5.6: Write the invariants. (write-test, about 20 minutes)

Now you are the grader. Write the check that the engine's tests run after every step: it looks at a
pool and at all block tables that are alive, and raises an AssertionError if a block is lost, free
twice, or counted wrongly.

Your check is run along many histories on the correct allocator, where it has to keep quiet, and on
eight allocators with one bug each, all of which it has to catch. Useful: pool.blocks,
pool.null_block, pool.num_free_blocks, and pool.free_queue, which can be iterated over. The prefix
cache has no part in it yet: the docstring's last sentence can wait.

Check: python -m minivllm.course check 5.6     (or: python -m pytest exercises/ch05_allocator/invariants.py)
Stuck: python -m minivllm.course hint 5.6
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import NULL_BLOCK_ID, BlockPool


def check_integrity(pool: BlockPool, tables: Iterable[Sequence[KVCacheBlock]]) -> None:
    """Assert that the pool agrees with itself and with `tables`, all the block tables that are alive.

    Every reference count equals the block's occurrences in tables, a block is free exactly if it has no reference,
    no block is in the free queue twice, and the null block is neither free nor referenced: so free + referenced =
    N - 1. The prefix cache points only at blocks that carry that very hash.
    """
    raise NotImplementedError("exercise 5.6: check_integrity")
