"""Scenarios that vLLM's own scheduler and prefix-cache tests play, with the same arithmetic, on our parts."""

import hashlib
import struct

import pytest

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.prefix_cache import ROOT_HASH, hash_block_tokens
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import SamplingParams

EOS, STOP_ID = 2, 42


def new_request(name, tokens, max_tokens=4, stop_ids=(), eos=()):
    """`stop_ids` are the user's, `eos` the model's."""
    params = SamplingParams(max_tokens=max_tokens, stop_token_ids=list(stop_ids))
    ends = frozenset([*stop_ids, *eos])
    return Request(name, list(tokens), params, stop_token_ids=ends, max_tokens=max_tokens)


def new_scheduler(num_blocks=1000, block_size=16, caching=False, **config):
    manager = KVCacheManager(num_blocks, block_size, caching)
    return Scheduler(SchedulerConfig(**({"max_model_len": 2048} | config)), manager)


# -- scheduler ----------------------------------------------------------------------------------------------------


def test_ten_prompts_that_fit_are_all_computed_in_one_step():
    scheduler = new_scheduler(max_num_seqs=16, max_num_batched_tokens=8192)
    for i in range(10):
        scheduler.add_request(new_request(str(i), [1] * 50))
    out = scheduler.schedule()
    assert dict(out.num_scheduled_tokens) == {str(i): 50 for i in range(10)}
    assert [new.request.request_id for new in out.new_requests] == [str(i) for i in range(10)]
    assert not scheduler.waiting and len(scheduler.running) == 10 and not out.finished_request_ids
    updates = scheduler.update_from_output(out, {str(i): [7] for i in range(10)})
    assert [list(update.new_token_ids) for update in updates] == [[7]] * 10


@pytest.mark.parametrize(
    "ends, max_tokens, kept, status, reason",
    [
        ({"eos": [EOS]}, 10, [20, EOS], RequestStatus.FINISHED_STOPPED, None),
        ({"eos": [EOS], "stop_ids": [STOP_ID]}, 10, [20, EOS], RequestStatus.FINISHED_STOPPED, None),
        ({"stop_ids": [STOP_ID]}, 10, [20, EOS, STOP_ID], RequestStatus.FINISHED_STOPPED, STOP_ID),
        ({"stop_ids": [STOP_ID]}, 4, [20, EOS, STOP_ID], RequestStatus.FINISHED_STOPPED, STOP_ID),
        ({}, 3, [20, EOS], RequestStatus.FINISHED_LENGTH_CAPPED, None),
        ({}, 10, [20, EOS, STOP_ID, 30], RequestStatus.RUNNING, None),  # ignore_eos
    ],
)
def test_accepted_drafts_behind_the_end_are_dropped(ends, max_tokens, kept, status, reason):
    """10, then the drafts 20, EOS, 42, all accepted, and 30: what ends the request ends it there."""
    scheduler = new_scheduler()
    request = new_request("a", [1, 1, 1], max_tokens, **ends)
    scheduler.add_request(request)
    scheduler.update_from_output(scheduler.schedule(), {"a": [10]})
    request.spec_token_ids = [20, EOS, STOP_ID]
    out = scheduler.schedule()
    assert out.num_scheduled_tokens == {"a": 4} and out.spec_token_ids == {"a": [20, EOS, STOP_ID]}
    (update,) = scheduler.update_from_output(out, {"a": [20, EOS, STOP_ID, 30]})
    assert list(update.new_token_ids) == kept and request.output_token_ids == [10, *kept]
    assert (request.status, request.stop_reason) == (status, reason)
    assert scheduler.has_unfinished_requests() == (status is RequestStatus.RUNNING)


def test_drafts_stop_at_the_context():
    """9 of 12 tokens are known: of three drafts and one token more, three can be kept. max_tokens is far away."""
    scheduler = new_scheduler(max_model_len=12)
    request = new_request("a", [1] * 8, max_tokens=100)
    scheduler.add_request(request)
    scheduler.update_from_output(scheduler.schedule(), {"a": [10]})
    request.spec_token_ids = [20, 21, 22]
    out = scheduler.schedule()
    assert out.num_scheduled_tokens == {"a": 4}
    scheduler.update_from_output(out, {"a": [20, 21, 22, 23]})
    assert request.output_token_ids == [10, 20, 21, 22]
    assert request.status is RequestStatus.FINISHED_LENGTH_CAPPED


def test_drafts_beyond_the_context_are_not_computed():
    """11 of 12 tokens are known and 10 computed: there is room for one draft of three."""
    scheduler = new_scheduler(max_model_len=12)
    request = new_request("a", [1] * 10, max_tokens=100)
    scheduler.add_request(request)
    scheduler.update_from_output(scheduler.schedule(), {"a": [10]})
    request.spec_token_ids = [20, 21, 22]
    out = scheduler.schedule()
    assert out.num_scheduled_tokens == {"a": 2} and out.spec_token_ids == {"a": [20]}


def test_the_context_ends_a_request_and_the_last_token_needs_no_slot():
    """12 tokens of context: the 12th is sampled when 11 are in the cache, so 3 blocks of 4 are enough."""
    scheduler = new_scheduler(num_blocks=4, block_size=4, max_model_len=12)
    request = new_request("a", [1] * 8, max_tokens=100)
    scheduler.add_request(request)
    while scheduler.has_unfinished_requests():
        scheduler.update_from_output(scheduler.schedule(), {"a": [10]})
    assert request.num_tokens == 12 and request.status is RequestStatus.FINISHED_LENGTH_CAPPED


def test_half_of_the_drafts_are_taken_back():
    scheduler = new_scheduler()
    request = new_request("a", [1] * 3, max_tokens=9)
    scheduler.add_request(request)
    scheduler.update_from_output(scheduler.schedule(), {"a": [10]})
    request.spec_token_ids = [20, 21, 22, 23]
    out = scheduler.schedule()
    assert request.num_computed_tokens == 3 + 5
    scheduler.update_from_output(out, {"a": [20, 21, 99]})
    assert request.num_computed_tokens == 3 + 3 and request.num_tokens == 3 + 4  # it owes one token again
    assert scheduler.schedule().num_scheduled_tokens == {"a": 1}


def test_who_is_passed_over_keeps_its_place_in_the_queue():
    """b and c need the block that a is computing: they let d pass, and come next, in their order."""
    scheduler = new_scheduler(block_size=4, caching=True)
    shared = [1, 2, 3, 4]
    for name, tokens in (("a", [*shared, 5]), ("b", [*shared, 6]), ("c", [*shared, 7]), ("d", [9] * 5)):
        scheduler.add_request(new_request(name, tokens))
    out = scheduler.schedule()
    assert list(out.num_scheduled_tokens) == ["a", "d"]
    assert [r.request_id for r in scheduler.waiting] == ["b", "c"]
    scheduler.update_from_output(out, {"a": [8], "d": [8]})
    out = scheduler.schedule()
    assert [new.request.request_id for new in out.new_requests] == ["b", "c"]
    assert [out.num_computed_tokens[name] for name in "bc"] == [4, 4]


def test_nobody_waits_for_a_block_that_it_could_not_use():
    """8 tokens in blocks of 4: the second block holds the last token, which is never taken from the cache."""
    scheduler = new_scheduler(block_size=4, caching=True)
    scheduler.add_request(new_request("a", [1, 2, 3, 4, 9], max_tokens=1))
    scheduler.update_from_output(scheduler.schedule(), {"a": [7]})
    for name in "bc":
        scheduler.add_request(new_request(name, [1, 2, 3, 4, 5, 6, 7, 8]))
    assert scheduler.schedule().num_scheduled_tokens == {"b": 4, "c": 4}


def test_an_aborted_request_leaves_the_running_ones_alone():
    scheduler = new_scheduler(num_blocks=11)
    for name in "abc":
        scheduler.add_request(new_request(name, [1] * 20))
    out = scheduler.schedule()
    scheduler.update_from_output(out, {name: [7] for name in "abc"})
    scheduler.finish_requests(["b"], RequestStatus.FINISHED_ABORTED)
    out = scheduler.schedule()
    assert list(out.finished_request_ids) == ["b"] and list(out.num_scheduled_tokens) == ["a", "c"]
    assert scheduler.kv_cache_manager.pool.num_free_blocks == 10 - 4


# -- prefix caching -----------------------------------------------------------------------------------------------


def compute(manager, request):
    computed = manager.get_computed_blocks(request)
    hit = len(computed) * manager.block_size
    assert manager.allocate_slots(request, request.num_tokens - hit, computed) is not None
    request.num_computed_tokens = request.num_tokens
    manager.cache_blocks(request, request.num_tokens)
    manager.check_integrity()
    return [block.block_id for block in computed]


def test_blocks_are_evicted_partial_first_then_never_used_then_tails_before_heads():
    """55 and 53 tokens, 48 of them shared, in 10 blocks of 16; then a stranger takes all ten."""
    manager = KVCacheManager(num_blocks=11, block_size=16)
    common = list(range(48))
    first, second = new_request("a", common + [100] * 7), new_request("b", common + [200] * 5)
    assert compute(manager, first) == [] and compute(manager, second) == [1, 2, 3]
    manager.free(first)
    manager.free(second)
    stranger = new_request("c", [7] * 160)
    assert compute(manager, stranger) == []
    assert manager.block_ids("c") == [5, 4, 6, 7, 8, 9, 10, 3, 2, 1]
    manager.free(stranger)
    assert manager.get_computed_blocks(new_request("d", common + [1])) == [], "every block was overwritten"


def test_a_chain_that_lost_its_tail_is_found_up_to_there():
    manager = KVCacheManager(num_blocks=11, block_size=16)
    old = new_request("a", range(160))
    compute(manager, old)
    manager.free(old)
    compute(manager, new_request("b", [7] * 32))  # takes 10 and 9, the end of the chain
    assert [b.block_id for b in manager.get_computed_blocks(new_request("c", range(160)))] == list(
        range(1, 9)
    )


def test_a_chain_without_its_head_is_not_found_at_all():
    manager = KVCacheManager(num_blocks=11, block_size=4)
    compute(manager, new_request("a", range(12)))
    head = manager.pool.blocks[1]
    manager.pool.prefix_cache.remove(head.block_hash, head)
    assert manager.get_computed_blocks(new_request("b", range(12))) == []


def test_the_hash_is_sha256_of_parent_tokens_and_keys_the_same_in_every_process():
    first = hashlib.sha256(ROOT_HASH + struct.pack("<2q", 5, 2**40) + struct.pack("<q", 4) + b"salt").digest()
    assert hash_block_tokens(ROOT_HASH, [5, 2**40], ("salt",)) == first
    second = hashlib.sha256(first + struct.pack("<2q", 6, 7)).digest()
    assert hash_block_tokens(first, [6, 7]) == second
    assert hashlib.sha256(b"minivllm prefix cache root").digest() == ROOT_HASH
