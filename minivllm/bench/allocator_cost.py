"""Microseconds that the block pool takes for one block, by number of free blocks, beside a plain Python list."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import BlockPool, FreeBlockQueue

NUM_CALLS = 200  # in a batch
NUM_BATCHES = 7  # the fastest counts: the others may have shared the processor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench allocator-cost`."""
    sizes = [1_000, 10_000, 100_000]
    parser.add_argument("--blocks", type=int, nargs="*", default=sizes, help="(default: 1000 10000 100000)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Taking a block and giving it back; taking a block out of the middle of the free queue."""
    rows = [measure(count) for count in args.blocks]
    for row in rows:
        print(
            f"{row['blocks']:7} free blocks: take and give back {row['take_us']:5.2f} us; out of the middle "
            f"{row['middle_us']:5.2f} us, with a list {row['list_middle_us']:8.2f} us"
        )
    return {"calls": NUM_CALLS, "batches": NUM_BATCHES, "rows": rows}


def measure(num_blocks: int) -> dict[str, float]:
    """Each figure is the mean over the calls of the fastest batch.

    Args:
        num_blocks: how many are free.
    """
    pool = BlockPool(num_blocks + 1)
    blocks = [KVCacheBlock(i) for i in range(num_blocks)]
    queue, plain_list = FreeBlockQueue(blocks), list(blocks)
    rng = random.Random("allocator-cost")
    chosen = [[rng.choice(blocks) for _ in range(NUM_CALLS)] for _ in range(NUM_BATCHES)]
    return {
        "blocks": num_blocks,
        "take_us": _microseconds(lambda _: pool.free_blocks(pool.get_new_blocks(1)), chosen),
        "middle_us": _microseconds(lambda block: _to_the_end(queue, block), chosen),
        "list_middle_us": _microseconds(lambda block: _to_the_end(plain_list, block), chosen),
    }


def _to_the_end(free: FreeBlockQueue | list[KVCacheBlock], block: KVCacheBlock) -> None:
    """What a hit on a free block and its release cost: out of the middle, and in again at the end."""
    free.remove(block)
    free.append(block)


def _microseconds(work: Callable[[KVCacheBlock], None], batches: list[list[KVCacheBlock]]) -> float:
    def seconds(batch: list[KVCacheBlock]) -> float:
        start = time.thread_time()
        for block in batch:
            work(block)
        return time.thread_time() - start

    return round(min(map(seconds, batches)) / NUM_CALLS * 1e6, 2)
