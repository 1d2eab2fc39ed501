"""A BlockMap of a scheduler's requests at this moment: one value for every picture."""

from __future__ import annotations

from minivllm.core.scheduler import Scheduler
from minivllm.outputs import BlockMap


def block_map(scheduler: Scheduler) -> BlockMap:
    """Who holds which block, and how far each is filled, by the running requests in the scheduler's order."""
    manager = scheduler.kv_cache_manager
    tables = manager.tables()
    running = [request for request in scheduler.running if request.request_id in tables]
    return BlockMap(
        num_blocks=manager.pool.num_blocks,
        block_size=manager.block_size,
        holders={r.request_id: tuple(tables[r.request_id].block_ids) for r in running},
        num_computed_tokens={r.request_id: r.num_computed_tokens for r in running},
        cached=frozenset(b.block_id for b in manager.pool.blocks if b.block_hash is not None),
    )
