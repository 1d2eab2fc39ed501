"""Exercise 5.6: Write the invariants."""

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
    held = Counter(block.block_id for table in tables for block in table if block is not pool.null_block)
    free = [block.block_id for block in pool.free_queue]
    assert len(free) == len(set(free)) == pool.num_free_blocks, "the free queue holds a block twice"
    assert NULL_BLOCK_ID not in free and pool.null_block.ref_cnt == 0, (
        "the null block was handed out or freed"
    )
    for block in pool.blocks[1:]:
        assert block.ref_cnt == held[block.block_id], (
            f"block {block.block_id} counts {block.ref_cnt} references but occurs {held[block.block_id]} times"
        )
    in_use = {block.block_id for block in pool.blocks if block.ref_cnt}
    assert in_use.isdisjoint(free), f"blocks {sorted(in_use & set(free))} are free and referenced"
    assert len(in_use) + len(free) == pool.num_blocks - 1, "a block is neither free nor referenced"
    if pool.prefix_cache is not None:
        pool.prefix_cache.check_integrity(pool.blocks)
