"""The recorder and the log: what is replayed from the events is what the manager really holds, after every step."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.events import KINDS, EventLog, State
from minivllm.recorder import Recorder
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import SamplingParams
from minivllm.viz.frames import tell


def make_request(name, tokens, max_tokens=4, **more):
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return Request(name, tokens, params, max_tokens=max_tokens, **more)


def held(manager):
    """The manager's truth, read from its blocks: request id -> block ids."""
    return {name: [block.block_id for block in table] for name, table in manager.tables().items()}


def cached(manager):
    return {block.block_id for block in manager.pool.blocks if block.block_hash is not None}


def state_of(log):
    state = log.base.copy()
    for event in log:
        state.apply(event)
    return state


def run_step(scheduler, draw_token, draw_drafts=lambda: 0):
    """Schedule, and answer every request that has caught up with a token, and with drafts as far as they are right."""
    output = scheduler.schedule()
    sampled = {}
    for name, count in output.num_scheduled_tokens.items():
        drafts = list(output.spec_token_ids.get(name, ()))
        if output.num_computed_tokens[name] + count == scheduler.requests[name].num_tokens + len(drafts):
            sampled[name] = [*drafts[: draw_drafts()], draw_token()]
    updates = scheduler.update_from_output(output, sampled)
    scheduler.update_draft_token_ids({name: [draw_token()] * draw_drafts() for name in sampled})
    return output, updates


@given(st.data())
@settings(max_examples=60)
def test_the_replayed_log_is_the_managers_state_after_every_step(data):
    block_size = data.draw(st.integers(1, 4))
    manager = KVCacheManager(
        data.draw(st.integers(6, 14)),
        block_size,
        enable_caching=data.draw(st.booleans()),
        window=data.draw(st.sampled_from([None, None, 3])),
        num_swap_blocks=data.draw(st.sampled_from([0, 6])),
    )
    config = SchedulerConfig(
        max_num_seqs=4,
        max_num_batched_tokens=data.draw(st.integers(2, 12)),
        max_model_len=24,
        preemption_mode="swap",
        num_lookahead_tokens=data.draw(st.sampled_from([0, 0, 3])),
    )
    num_drafts = data.draw(st.sampled_from([0, 3]))
    scheduler = Scheduler(config, manager)
    max_events = data.draw(st.sampled_from([None, 1, 7]))
    recorder = Recorder(manager, scheduler, max_events=max_events, with_queue=True)
    tokens = st.lists(st.integers(0, 1), min_size=1, max_size=10)
    parent = None
    for number in range(data.draw(st.integers(1, 12))):
        if data.draw(st.booleans()):
            prompt = parent.prompt_token_ids if parent and data.draw(st.booleans()) else data.draw(tokens)
            sibling = parent if parent and parent.prompt_token_ids == prompt else None
            request = make_request(f"r{number}", prompt, data.draw(st.integers(1, 6)), fork_from=sibling)
            with suppress(ValueError):  # it could never be held
                scheduler.add_request(request)
                parent = request
        if data.draw(st.integers(0, 7)) == 0 and parent:
            scheduler.finish_requests([parent.request_id], RequestStatus.FINISHED_ABORTED)
        if scheduler.has_work():
            run_step(
                scheduler,
                lambda: data.draw(st.integers(0, 1)),
                lambda: data.draw(st.integers(0, num_drafts)) if num_drafts else 0,
            )
        state = state_of(recorder.log)
        assert state.tables == held(manager)
        assert state.cached == cached(manager)
        assert state.queue == tuple(block.block_id for block in manager.pool.free_queue)
        for name in held(manager):  # what is written is what the scheduler calls computed
            assert state.num_tokens[name] == scheduler.requests[name].num_computed_tokens
        if max_events is not None:
            assert len(recorder.log) <= max_events
        again = EventLog.from_json(recorder.log.to_json())
        assert list(again) == list(recorder.log) and again.base == recorder.log.base


def run_until_done(scheduler):
    while scheduler.has_unfinished_requests():
        run_step(scheduler, lambda: 7)


def test_the_events_of_a_small_life():
    """Worked by hand: 5 tokens in blocks of 2, one answer, and a second request that finds the prefix."""
    manager = KVCacheManager(6, 2)
    scheduler = Scheduler(SchedulerConfig(max_num_seqs=1, max_model_len=10), manager)
    with Recorder(manager, scheduler) as log:
        scheduler.add_request(make_request("a", [1, 2, 3, 4, 5], 2))
        run_until_done(scheduler)
        scheduler.add_request(make_request("b", [1, 2, 3, 4, 9], 1))
        run_until_done(scheduler)
    lines = [(event.step, event.kind, getattr(event, "block_ids", None)) for event in log]
    assert lines == [
        (0, "add", None),
        (1, "alloc", (1, 2, 3)),
        (1, "write", None),
        (1, "schedule", None),
        (1, "sample", None),
        (1, "cache", (1, 2)),
        (2, "write", None),
        (2, "schedule", None),
        (2, "sample", None),
        (2, "cache", (3,)),
        (2, "free", (3, 2, 1)),
        (2, "finish", None),
        (2, "add", None),
        (3, "hit", (1, 2)),
        (3, "alloc", (4,)),
        (3, "write", None),
        (3, "schedule", None),
        (3, "sample", None),
        (3, "free", (4, 2, 1)),
        (3, "finish", None),
    ]


def test_rejected_drafts_give_their_blocks_back():
    """Worked by hand: 3 tokens in blocks of 2, then 4 drafts, the first of which is right."""
    manager = KVCacheManager(8, 2, enable_caching=False)
    scheduler = Scheduler(SchedulerConfig(max_model_len=20), manager)
    with Recorder(manager, scheduler) as log:
        scheduler.add_request(make_request("a", [1, 2, 3], 8))
        scheduler.update_from_output(scheduler.schedule(), {"a": [4]})
        scheduler.update_draft_token_ids({"a": [5, 6, 7, 8]})
        scheduler.update_from_output(scheduler.schedule(), {"a": [5, 9]})
    found = [event for event in log if event.step == 2]
    assert [event.kind for event in found] == ["alloc", "write", "draft", "schedule", "sample", "trim"]
    assert found[0].block_ids == (3, 4) and (found[1].start, found[1].stop) == (3, 8)
    assert found[2].token_ids == (5, 6, 7, 8) and found[4].token_ids == (5, 9)
    assert (found[5].num_tokens, found[5].block_ids) == (5, (4,))
    assert state_of(log).tables == {"a": [1, 2, 3]} and state_of(log).num_tokens == {"a": 5}
    assert tell(found[5]) == "a goes back to 5 computed tokens, and gives back block 4"
    assert tell(found[2]) == "4 drafted tokens of a are verified"


def test_a_fork_and_its_copy_on_write():
    manager = KVCacheManager(8, 4)
    parent, child = make_request("p", [1, 2, 3, 4, 5, 6]), make_request("c", [1, 2, 3, 4, 5, 6])
    with Recorder(manager) as log:
        manager.allocate_slots(parent, 6)
        manager.cache_blocks(parent, 6)
        parent.num_computed_tokens = 6
        manager.fork(parent, child, 5)
        manager.allocate_slots(child, 1)
    kinds = [event.kind for event in log]
    assert kinds == ["alloc", "write", "cache", "fork", "copy", "write"]
    fork, copy = [event for event in log if event.kind in ("fork", "copy")]
    assert fork.block_ids == (1, 2) and fork.num_tokens == 5
    assert (copy.source, copy.target) == (2, 3)
    told = [
        state.num_tokens.get("c")
        for event, state in log.replay_copies()
        if event.kind in ("fork", "copy", "write")
    ]
    assert told == [None, 5, 5, 6]  # the parent's write, the fork, the copy, the child's write


def test_an_eviction_is_seen_when_the_block_is_taken():
    manager = KVCacheManager(4, 2)
    scheduler = Scheduler(SchedulerConfig(max_model_len=8), manager)
    with Recorder(manager, scheduler) as log:
        for name, token in (("a", 1), ("b", 2)):
            scheduler.add_request(make_request(name, [token] * 5, 1))
            run_until_done(scheduler)
    assert [event.block_ids for event in log if event.kind == "evict"] == [(2, 1)]


def test_a_stopped_recorder_leaves_no_trace():
    manager = KVCacheManager(6, 2)
    before = dict(vars(manager))
    recorder = Recorder(manager)
    manager.allocate_slots(make_request("a", [1, 2]), 2)
    recorder.stop()
    manager.allocate_slots(make_request("b", [1, 2]), 2)
    assert vars(manager).keys() == before.keys()
    assert {event.request_id for event in recorder.log} == {"a"}


def test_a_recording_can_begin_in_the_middle():
    manager = KVCacheManager(6, 2)
    scheduler = Scheduler(SchedulerConfig(max_model_len=8), manager)
    scheduler.add_request(make_request("a", [1, 2, 3], 3))
    run_step(scheduler, lambda: 7)
    with Recorder(manager, scheduler) as log:
        run_step(scheduler, lambda: 7)
        assert state_of(log).tables == held(manager) == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "no event log"),
        ('{"num_blocks": 2, "block_size": 1, "max_events": 0}', "max_events must be at least 1"),
    ],
)
def test_a_broken_log_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        EventLog.from_json(text)


def test_an_unknown_kind_is_refused_with_a_sentence():
    text = EventLog(4, 2).to_json().replace('"events": []', '"events": [{"kind": "sneeze", "step": 1}]')
    with pytest.raises(ValueError, match="kind must be one of add, .*not 'sneeze'"):
        EventLog.from_json(text)


def test_a_log_that_is_not_bounded_keeps_all_and_a_bound_below_one_is_refused():
    assert EventLog(4, 2).max_events is None and State().tables == {}
    with pytest.raises(ValueError, match="at least 1"):
        EventLog(4, 2, max_events=0)
    assert len(KINDS) == 16
