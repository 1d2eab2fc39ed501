"""The cost of the allocator: what is timed does what it says, and the command names it."""

from minivllm.bench import allocator_cost
from minivllm.bench.__main__ import COMMANDS
from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import FreeBlockQueue


def test_a_block_goes_from_the_middle_to_the_end_of_queue_and_list_alike():
    blocks = [KVCacheBlock(i) for i in range(5)]
    queue, plain_list = FreeBlockQueue(blocks), list(blocks)
    for free in (queue, plain_list):
        allocator_cost._to_the_end(free, blocks[2])
        assert [block.block_id for block in free] == [0, 1, 3, 4, 2]


def test_every_figure_is_measured():
    row = allocator_cost.measure(50)
    assert row["blocks"] == 50
    assert all(row[name] > 0 for name in ("take_us", "middle_us", "list_middle_us"))
    assert COMMANDS["allocator-cost"] is allocator_cost
