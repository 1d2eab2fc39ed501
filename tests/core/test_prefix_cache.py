"""Equal hash = equal prefix; and which blocks are found, shared and evicted, in vLLM's own worked order."""

from hypothesis import given
from hypothesis import strategies as st

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.prefix_cache import ROOT_HASH, hash_block_tokens
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams


def request(name, tokens, **kwargs):
    return Request(name, list(tokens), SamplingParams(), **kwargs)


def run(manager, req, num_tokens=None):
    """Admit `req` and compute its tokens; returns (blocks hit, all block ids)."""
    computed = manager.get_computed_blocks(req)
    req.num_computed_tokens = 0
    start = len(computed) * manager.block_size
    assert manager.allocate_slots(req, (num_tokens or req.num_tokens) - start, computed) is not None
    req.num_computed_tokens = num_tokens or req.num_tokens
    manager.cache_blocks(req, req.num_computed_tokens)
    manager.check_integrity()
    return [b.block_id for b in computed], manager.block_ids(req.request_id)


block = st.lists(st.integers(0, 3), min_size=2, max_size=2)
chain = st.lists(block, min_size=1, max_size=4)
keys = st.lists(st.sampled_from(["", "a", "b", "ab"]), max_size=2)


@given(chain, keys, chain, keys)
def test_hash_is_equal_exactly_when_the_prefix_is(blocks_a, keys_a, blocks_b, keys_b):
    def last_hash(blocks, extra):
        parent = ROOT_HASH
        for tokens in blocks:
            parent = hash_block_tokens(parent, tokens, extra)
        return parent

    same = (blocks_a, keys_a) == (blocks_b, keys_b)
    assert (last_hash(blocks_a, keys_a) == last_hash(blocks_b, keys_b)) == same


def test_a_second_request_shares_the_full_blocks_and_frees_tails_first():
    manager = KVCacheManager(num_blocks=11, block_size=16)
    common = list(range(48))
    first = request("first", common + [100] * 7)
    assert run(manager, first) == ([], [1, 2, 3, 4])
    second = request("second", common + [200] * 5)
    assert run(manager, second) == ([1, 2, 3], [1, 2, 3, 5])
    assert [manager.pool.blocks[i].ref_cnt for i in (1, 2, 3, 4, 5)] == [2, 2, 2, 1, 1]
    manager.free(first)
    manager.free(second)
    # The partial blocks 4 and 5 can never be found: they are reused first. Of the findable ones the tail goes first.
    assert [b.block_id for b in manager.pool.free_queue] == [5, 4, 6, 7, 8, 9, 10, 3, 2, 1]
    third = request("third", common + [7])
    assert run(manager, third)[0] == [1, 2, 3]


def test_the_last_token_is_always_computed():
    manager = KVCacheManager(num_blocks=11, block_size=16)
    run(manager, request("a", range(32)))
    assert [b.block_id for b in manager.get_computed_blocks(request("b", range(32)))] == [1]
    assert [b.block_id for b in manager.get_computed_blocks(request("c", range(33)))] == [1, 2]


def test_a_block_is_found_only_after_it_was_computed():
    manager = KVCacheManager(num_blocks=11, block_size=4)
    first = request("a", range(9))
    manager.allocate_slots(first, 9)
    assert manager.get_computed_blocks(request("b", range(9))) == []
    for num_computed, num_found in ((3, 0), (4, 1), (7, 1), (8, 2)):
        manager.cache_blocks(first, num_computed)
        assert len(manager.get_computed_blocks(request("b", range(9)))) == num_found


def sibling(parent, name="child"):
    return request(name, parent.prompt_token_ids, fork_from=parent)


def test_a_fork_caches_its_own_blocks_however_far_the_other_is_ahead():
    manager = KVCacheManager(num_blocks=20, block_size=4)
    parent = request("parent", range(8))
    parent.output_token_ids = [100 + i for i in range(12)]
    run(manager, parent)  # five full blocks are cached
    child = sibling(parent)
    start = manager.find_start(child)
    assert (start.how, start.num_computed_tokens) == ("fork", 7)
    manager.begin(child, start, 1)
    child.output_token_ids = [200 + i for i in range(5)]
    child.num_computed_tokens = 8
    assert manager.allocate_slots(child, 5) is not None
    manager.cache_blocks(child, 13)
    again = request("again", [*range(8), *child.output_token_ids, 7])
    assert [b.block_id for b in manager.get_computed_blocks(again)][2:] == manager.block_ids("child")[2:3]


def test_a_sibling_that_came_back_from_the_swap_space_can_be_forked_at_once():
    manager = KVCacheManager(num_blocks=20, block_size=4, enable_caching=False, num_swap_blocks=5)
    parent = request("parent", range(7))
    run(manager, parent)
    assert manager.swap_out(parent) and manager.find_start(sibling(parent)).how == "prefix"
    manager.swap_in(parent, ())
    assert manager.find_start(sibling(parent)).how == "fork"


def test_a_sibling_whose_window_has_left_the_prompt_can_not_be_forked():
    manager = KVCacheManager(num_blocks=20, block_size=2, enable_caching=False, window=2)
    parent = request("parent", range(6))
    run(manager, parent)
    assert manager.find_start(sibling(parent)).how == "fork"
    parent.output_token_ids = [7] * 6
    assert manager.allocate_slots(parent, 6) is not None
    parent.num_computed_tokens = 12
    assert manager.allocate_slots(parent, 1) is not None
    assert manager.find_start(sibling(parent)).how == "prefix"


def test_another_salt_is_another_prefix():
    manager = KVCacheManager(num_blocks=11, block_size=4)
    run(manager, request("a", range(9), cache_salt="tenant-1"))
    assert manager.get_computed_blocks(request("b", range(9))) == []
    assert manager.get_computed_blocks(request("c", range(9), cache_salt="tenant-2")) == []
    assert len(manager.get_computed_blocks(request("d", range(9), cache_salt="tenant-1"))) == 2


def test_without_caching_nothing_is_found():
    manager = KVCacheManager(num_blocks=11, block_size=4, enable_caching=False)
    run(manager, request("a", range(9)))
    assert manager.get_computed_blocks(request("b", range(9))) == []


def test_hits_that_are_free_blocks_count_against_the_room():
    manager = KVCacheManager(num_blocks=5, block_size=4)  # four usable
    first = request("a", range(12))
    run(manager, first)
    manager.free(first)
    other = request("b", [50 + i for i in range(8)])
    run(manager, other)  # two taken: the two free ones left are the head of a's chain
    again = request("c", list(range(8)) + [90] * 5)  # hits both, needs two more
    computed = manager.get_computed_blocks(again)
    assert len(computed) == 2
    assert not manager.can_fit(again.num_tokens, computed)
    assert manager.allocate_slots(again, 5, computed) is None
    manager.check_integrity()


def test_look_ups_and_hits_are_counted_in_tokens(toy):
    t = toy(block_size=2)
    for name in ("a", "b"):
        t.add(name, range(7))
        t.run()
    assert (t.manager.stats.queries, t.manager.stats.hits) == (14, 6)
