"""Each block by itself: what the tables, the queue and its count say of it."""


def check_integrity(pool, tables):
    in_tables = [block.block_id for table in tables for block in table]
    in_queue = [block.block_id for block in pool.free_queue]
    for block in pool.blocks:
        if block is pool.null_block:
            should_be_free, references = 0, 0
        else:
            references = in_tables.count(block.block_id)
            should_be_free = 1 if references == 0 else 0
        assert block.ref_cnt == references
        assert in_queue.count(block.block_id) == should_be_free
    assert pool.num_free_blocks == len(in_queue)
