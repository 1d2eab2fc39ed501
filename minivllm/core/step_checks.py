"""The laws of a step, checked from outside: they hold for anybody's allocator, block table or scheduler.

They look only at what a part promises (`parts.Allocator`), never at how it keeps its promise, and cost a walk over the
held blocks; so the engine makes them only when a part was replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_table import cdiv
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.parts import Allocator

if TYPE_CHECKING:
    from minivllm.core.kv_cache_manager import KVCacheManager


class BrokenLawError(AssertionError):
    """A law of the engine does not hold; the message says which, and for which block or request."""


def check_references(pool: Allocator, tables: Iterable[Sequence[KVCacheBlock]]) -> None:
    """No block is ever lost: ref_cnt = occurrences in tables, and all blocks that are in no table are free.

    Raises:
        BrokenLawError: it is not so.
    """
    held = Counter(block.block_id for table in tables for block in table if block is not pool.null_block)
    for block_id, count in held.items():
        if pool.blocks[block_id].ref_cnt != count:
            raise BrokenLawError(
                f"block {block_id} counts {pool.blocks[block_id].ref_cnt} references, and block tables hold it "
                f"{count} times"
            )
    num_free = pool.num_blocks - 1 - len(held)  # the null block is not free
    if pool.num_free_blocks != num_free:
        raise BrokenLawError(
            f"{num_free} blocks are in no block table, and the allocator counts {pool.num_free_blocks} free ones"
        )


def check_step(manager: KVCacheManager, step: SchedulerOutput) -> None:
    """Check the blocks, and that the step writes only where it may: into blocks that nobody else holds.

    Raises:
        BrokenLawError: it is not so.
    """
    tables, block_size = manager.tables(), manager.block_size
    check_references(manager.pool, tables.values())
    for request_id, num_tokens in step.num_scheduled_tokens.items():
        table, start = tables[request_id], step.num_computed_tokens[request_id]
        first, last = start // block_size, cdiv(start + num_tokens, block_size)
        if last > len(table):
            raise BrokenLawError(
                f"request {request_id} computes positions {start} to {start + num_tokens - 1} of its tokens, and "
                f"its {len(table)} blocks have room for {len(table) * block_size}"
            )
        for index in range(first, last):
            if table[index].ref_cnt != 1:
                raise BrokenLawError(
                    f"request {request_id} is about to write into block {table[index].block_id}, which has "
                    f"{table[index].ref_cnt} references: only a block with exactly one may be written"
                )
