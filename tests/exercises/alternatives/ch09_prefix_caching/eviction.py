"""Without a tuple as key: stable sorts, the least important rule first, and the two kinds apart."""

from minivllm.course.extra.ch09_eviction import BlockRecord  # noqa: F401  part of the exercise's file


def eviction_order(blocks):
    free = sorted((b for b in blocks if not b.ref_cnt), key=lambda b: b.block_id)
    free.sort(key=lambda b: b.index, reverse=True)
    free.sort(key=lambda b: b.freed_at)
    useful = [b for b in free if b.is_findable]
    useless = [b for b in free if not b.is_findable]
    useless.sort(key=lambda b: b.freed_at, reverse=True)  # keeps the order of equals
    return [b.block_id for b in useless + useful]


def lost_content(blocks, num_blocks):
    order = eviction_order(blocks)
    if num_blocks > len(order):
        raise AssertionError(f"only {len(order)} blocks are free")
    by_id = {b.block_id: b for b in blocks}
    return [i for i in order[:num_blocks] if by_id[i].is_findable]
