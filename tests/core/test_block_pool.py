"""BlockPool and FreeBlockQueue against a plain list, and the worked orders of vLLM's own rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import BlockPool, FreeBlockQueue
from minivllm.core.integrity import check_integrity


def ids(blocks):
    return [block.block_id for block in blocks]


@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "prepend", "popleft", "remove"]), st.integers(0, 7)), max_size=60
    )
)
def test_free_queue_is_a_list_with_fast_middle_removal(operations):
    blocks = [KVCacheBlock(i) for i in range(8)]
    queue, model = FreeBlockQueue(), []
    for name, i in operations:
        if name == "popleft" and model:
            assert queue.popleft().block_id == model.pop(0)
        elif name == "remove" and i in model:
            queue.remove(blocks[i])
            model.remove(i)
        elif name in ("append", "prepend") and i not in model:
            getattr(queue, name)(blocks[i])
            model.insert(len(model) if name == "append" else 0, i)
        assert ids(queue) == model and queue.num_free_blocks == len(model)


def test_misuse_of_the_free_queue_is_an_assertion():
    block = KVCacheBlock(1)
    queue = FreeBlockQueue([block])
    with pytest.raises(AssertionError, match="already in the free queue"):
        queue.append(block)
    queue.remove(block)
    with pytest.raises(AssertionError, match="not in the free queue"):
        queue.remove(block)
    with pytest.raises(AssertionError, match="empty"):
        queue.popleft()


def test_block_zero_is_never_handed_out():
    pool = BlockPool(5)
    assert ids(pool.get_new_blocks(4)) == [1, 2, 3, 4]
    assert pool.num_free_blocks == 0 and pool.usage == 1.0
    with pytest.raises(AssertionError, match="asked for 1 of 0"):
        pool.get_new_blocks(1)


def test_a_pool_without_a_null_block_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="num_blocks must be at least 1"):
        BlockPool(0)


def test_a_double_free_is_an_assertion():
    pool = BlockPool(3)
    (block,) = pool.get_new_blocks(1)
    pool.free_blocks([block])
    with pytest.raises(AssertionError, match="freed more often"):
        pool.free_blocks([block])


def test_findable_blocks_are_reused_last_and_unfindable_ones_first():
    pool = BlockPool(7)
    a, b, c = pool.get_new_blocks(3)  # 1 2 3; 4 5 6 stay free
    pool.cache_full_block(a, b"a")
    pool.cache_full_block(b, b"b")
    pool.free_blocks([c, b, a])  # a request's blocks go back tail first
    assert ids(pool.free_queue) == [3, 4, 5, 6, 2, 1]
    assert pool.get_cached_block(b"b") is b
    pool.touch([b])
    assert ids(pool.free_queue) == [3, 4, 5, 6, 1] and b.ref_cnt == 1
    check_integrity(pool, [[b]])
    pool.get_new_blocks(5)  # evicts a, whose content nobody can find any more
    assert pool.get_cached_block(b"a") is None and pool.get_cached_block(b"b") is b


def test_without_caching_too_the_first_that_is_freed_is_reused_first():
    pool = BlockPool(7, enable_caching=False)
    a, b, c = pool.get_new_blocks(3)
    pool.free_blocks([c, b, a])
    assert ids(pool.free_queue) == [3, 2, 1, 4, 5, 6]


def test_blocks_with_the_same_content_may_coexist():
    pool = BlockPool(4)
    a, b = pool.get_new_blocks(2)
    pool.cache_full_block(a, b"x")
    pool.cache_full_block(b, b"x")
    pool.free_blocks([a])
    assert ids(pool.get_new_blocks(2)) == [3, 1]
    assert pool.get_cached_block(b"x") is b


def test_the_prefix_cache_is_reset_only_when_idle():
    pool = BlockPool(3)
    (block,) = pool.get_new_blocks(1)
    pool.cache_full_block(block, b"x")
    assert not pool.reset_prefix_cache() and pool.get_cached_block(b"x") is block
    pool.free_blocks([block])
    assert pool.reset_prefix_cache() and pool.get_cached_block(b"x") is None
    check_integrity(pool, [])


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda pool, block: setattr(block, "ref_cnt", 2), "counts 2 references but occurs 1"),
        (lambda pool, block: pool.free_queue.append(block), "free and referenced"),
        (lambda pool, block: pool.free_queue.popleft(), "neither free nor referenced"),
        (lambda pool, block: setattr(block, "block_hash", b"?"), "disagree"),
        (lambda pool, block: pool.free_queue.append(pool.null_block), "null block"),
    ],
)
def test_check_integrity_sees_damage(damage, complaint):
    pool = BlockPool(4)
    (block,) = pool.get_new_blocks(1)
    check_integrity(pool, [[block]])
    damage(pool, block)
    with pytest.raises(AssertionError, match=complaint):
        check_integrity(pool, [[block]])
