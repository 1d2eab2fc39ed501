"""Policies, forks, swapping, windows, static batching, deadlines: on a worker whose memory tells on every mistake."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.scheduler import QueueFullError
from minivllm.core.swap import PreemptionCosts
from minivllm.request import RequestStatus

prompts = st.lists(st.integers(0, 1), min_size=1, max_size=9)
loads = st.lists(
    st.tuples(prompts, st.integers(1, 8), st.integers(1, 3), st.integers(0, 3), st.integers(0, 12)),
    min_size=1,
    max_size=7,
)  # prompt, max_tokens, n, priority, arrival


@settings(max_examples=300)
@given(data=st.data())
def test_whatever_is_switched_on_outputs_stay_and_no_block_is_lost(toy_class, data):
    load = data.draw(loads)
    block_size = data.draw(st.integers(1, 4))
    longest = max(len(p) + m for p, m, *_ in load)
    num_blocks = 1 + -(-longest // block_size) + data.draw(st.integers(0, 8))
    mode = data.draw(st.sampled_from(["recompute", "swap", "auto"]))
    toy = toy_class(
        num_blocks,
        block_size,
        caching=data.draw(st.booleans()),
        window=data.draw(st.sampled_from([None, None, 1, 3, 6])),
        num_swap_blocks=data.draw(st.integers(1, 12)) if mode != "recompute" else 0,
        max_num_seqs=data.draw(st.integers(1, 5)),
        max_num_batched_tokens=data.draw(st.integers(5, 20)),
        long_prefill_token_threshold=data.draw(st.sampled_from([0, 0, 2])),
        policy=data.draw(st.sampled_from(["fcfs", "priority", "shortest-first"])),
        enable_static_batching=data.draw(st.booleans()),
        preemption_mode=mode,
        preemption_costs=PreemptionCosts(1.0, data.draw(st.sampled_from([0.1, 1.0, 10.0]))),
    )
    pending = sorted(enumerate(load), key=lambda item: item[1][-1])
    abort_at = data.draw(st.none() | st.integers(0, 10))
    now = 0
    while pending or toy.scheduler.has_unfinished_requests():
        while pending and pending[0][1][-1] <= now:
            number, (prompt, max_tokens, n, priority, _) = pending.pop(0)
            first = None
            for index in range(n):
                name = f"{number}.{index}"
                child = toy.add(
                    name, prompt, max_tokens, seed=index, priority=priority, index=index, fork_from=first
                )
                first = first or child
        if now == abort_at and toy.scheduler.requests:
            victim = data.draw(st.sampled_from(sorted(toy.scheduler.requests)))
            toy.scheduler.finish_requests([victim], RequestStatus.FINISHED_ABORTED)
            toy.manager.check_integrity()
        output = toy.step()
        assert output.total_num_scheduled_tokens <= toy.scheduler.config.max_num_batched_tokens
        assert len(toy.scheduler.running) <= toy.scheduler.config.max_num_seqs
        now += 1
        assert now < 1500, "no progress"
    toy.run()
    toy.check_outputs()
    for request in toy.requests.values():
        if request.status is not RequestStatus.FINISHED_ABORTED:
            assert request.num_output_tokens == request.max_tokens


@pytest.mark.parametrize("caching", [True, False])
def test_choices_share_the_prompt_and_copy_one_block_each(toy, caching):
    t = toy(num_blocks=40, block_size=4, caching=caching)
    first = t.add("a0", range(10), max_tokens=6, seed=0)
    for index in range(1, 5):
        t.add(f"a{index}", range(10), max_tokens=6, seed=index, fork_from=first)
    t.step()  # the first computes the prompt; the others wait for it
    assert [r.request_id for r in t.scheduler.running] == ["a0"]
    output = t.step()
    assert [n.request.request_id for n in output.new_requests] == ["a1", "a2", "a3", "a4"]
    assert all(output.num_scheduled_tokens[f"a{i}"] == 1 for i in range(5))
    # 10 tokens: two full blocks shared by all five, and the partial third one copied by each fork
    assert [t.manager.pool.blocks[b].ref_cnt for b in t.manager.block_ids("a0")] == [5, 5, 1]
    assert len(output.block_operations.copy) == 4
    unshared = 5 * 3
    assert t.manager.pool.num_blocks - 1 - t.manager.pool.num_free_blocks == 2 + 5 < unshared
    t.run()
    t.check_outputs()
    assert len({tuple(r.output_token_ids) for r in t.requests.values()}) > 1  # seeds differ


def test_a_common_prefix_is_computed_once_even_when_all_arrive_together(toy):
    t = toy(num_blocks=400, block_size=4, max_num_batched_tokens=500, max_num_seqs=30, max_model_len=200)
    shared, own, count = 64, 6, 20
    for i in range(count):
        t.add(str(i), [7] * shared + [100 + i] * own, max_tokens=1)
    t.run()
    computed = sum(output.total_num_scheduled_tokens for output in t.history)
    assert computed == shared + count * own
    t.check_outputs()


def test_priority_takes_the_seat_and_the_blocks_of_the_less_urgent(toy):
    t = toy(num_blocks=10, block_size=2, policy="priority", max_num_seqs=2)
    t.add("low", [5] * 6, max_tokens=4, priority=5)
    t.add("middle", [3] * 6, max_tokens=4, priority=3)
    t.step()
    assert [r.request_id for r in t.scheduler.running] == ["middle", "low"]
    t.add("urgent", [9] * 6, max_tokens=4, priority=0)
    output = t.step()
    assert output.preempted_request_ids == ["low"]
    assert [r.request_id for r in t.scheduler.running] == ["urgent", "middle"]
    t.add("equal", [8] * 6, max_tokens=4, priority=3)
    assert t.step().preempted_request_ids == []  # not more urgent than anybody who runs
    t.run()
    t.check_outputs()


def test_shortest_first_runs_the_least_work_first(toy):
    t = toy(policy="shortest-first", max_num_seqs=1)
    for name, size, max_tokens in (("long", 12, 2), ("short", 2, 2), ("says much", 2, 9), ("middle", 6, 2)):
        t.add(name, range(size), max_tokens=max_tokens)
    t.run()
    order = [new.request.request_id for output in t.history for new in output.new_requests]
    assert order == ["short", "middle", "says much", "long"]


@given(st.lists(st.tuples(prompts, st.integers(1, 6)), min_size=2, max_size=8), st.integers(1, 3))
def test_with_fcfs_nobody_is_overtaken(toy_class, load, max_num_seqs):
    t = toy_class(num_blocks=12, block_size=2, caching=False, max_num_seqs=max_num_seqs)
    for i, (prompt, max_tokens) in enumerate(load):
        t.add(str(i), prompt, max_tokens)
    t.run()
    first_seen = list(dict.fromkeys(new.request.request_id for o in t.history for new in o.new_requests))
    assert first_seen == [str(i) for i in range(len(load))]
    # The bound: with one seat, request i starts once the work before it is done, and not a step later.
    if max_num_seqs == 1:
        for i in range(1, len(load)):
            started = next(k for k, o in enumerate(t.history) if str(i) in o.num_scheduled_tokens)
            assert started == sum(max_tokens for _, max_tokens in load[:i])


def test_a_static_batch_is_held_up_by_its_longest_request(toy):
    t = toy(num_blocks=200, enable_static_batching=True, max_num_seqs=8, max_model_len=64)
    for i in range(8):
        t.add(str(i), [i], max_tokens=50 if i == 0 else 5)
    t.add("late", [9], max_tokens=5)
    t.run()
    busy = [len(o.num_scheduled_tokens) for o in t.history]
    assert busy[:5] == [8] * 5
    assert busy[5:50] == [1] * 45  # 45 rounds with seven of eight seats idle
    assert busy[50:55] == [1] * 5 and "late" in t.history[50].num_scheduled_tokens

    continuous = toy(num_blocks=200, max_num_seqs=8, max_model_len=64)
    for i in range(8):
        continuous.add(str(i), [i], max_tokens=50 if i == 0 else 5)
    continuous.add("late", [9], max_tokens=5)
    continuous.run()
    assert "late" in continuous.history[5].num_scheduled_tokens
    assert len(continuous.history) == 50


@given(
    st.lists(st.tuples(prompts, st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(0, 6),
)
def test_a_static_batch_is_filled_then_closed_then_run_to_its_end(toy_class, load, max_num_seqs, spare):
    t = toy_class(
        num_blocks=400,
        caching=False,
        enable_static_batching=True,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + spare,
    )
    arrivals = sorted(range(len(load)), key=lambda i: load[i][2])
    batch, is_open = set(), False
    for now in range(1000):
        while arrivals and load[arrivals[0]][2] <= now:
            i = arrivals.pop(0)
            t.add(str(i), load[i][0], load[i][1])
        if not (arrivals or t.scheduler.has_unfinished_requests()):
            break
        if all(t.requests[name].status.is_finished for name in batch):
            batch, is_open = set(), True
        output = t.step()
        joined = {new.request.request_id for new in output.new_requests}
        assert is_open or not joined, "a closed batch let somebody in"
        batch |= joined
        assert len(batch) <= max_num_seqs
        has_budget = output.total_num_scheduled_tokens < t.scheduler.config.max_num_batched_tokens
        if is_open and has_budget and t.scheduler.waiting:
            assert len(batch) == max_num_seqs, "a batch was left unfilled"
        is_open = is_open and len(batch) < max_num_seqs and bool(t.scheduler.waiting)
    t.run()
    t.check_outputs()


def test_a_small_budget_does_not_shrink_a_static_batch(toy):
    """The prompts of a batch may need several steps; whoever has the first token goes on while the rest comes in."""
    t = toy(
        num_blocks=99, enable_static_batching=True, caching=False, max_num_seqs=4, max_num_batched_tokens=5
    )
    for i in range(6):
        t.add(str(i), [i] * 4, max_tokens=2 if i == 0 else 9)
    t.run()
    admitted = [[new.request.request_id for new in o.new_requests] for o in t.history]
    assert admitted[:4] == [["0", "1"], ["2"], ["3"], []]  # 4 + 1 tokens, then 1 + 3 + 1, then 1 + 3 + 1
    assert [ids for ids in admitted if ids] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
    last_of_batch = max(k for k, o in enumerate(t.history) if "3" in o.num_scheduled_tokens)
    assert admitted.index(["4", "5"]) == last_of_batch + 1
    t.check_outputs()


def test_a_static_batch_keeps_the_seat_of_who_left_while_it_was_assembled(toy):
    t = toy(
        num_blocks=99, enable_static_batching=True, caching=False, max_num_seqs=2, max_num_batched_tokens=4
    )
    for name, size in (("a", 4), ("b", 12), ("c", 2)):
        t.add(name, [1] * size, max_tokens=1)
    t.run()
    assert [dict(o.num_scheduled_tokens) for o in t.history] == [
        {"a": 4},
        {"b": 4},
        {"b": 4},
        {"b": 4},
        {"c": 2},
    ]


def test_a_static_batch_closes_when_the_queue_or_the_memory_is_used_up(toy):
    t = toy(num_blocks=1 + 6, block_size=2, enable_static_batching=True, caching=False, max_num_seqs=4)
    for name in "abc":
        t.add(name, [1] * 5, max_tokens=1 if name == "a" else 2)
    t.step()
    assert [r.request_id for r in t.scheduler.running] == ["b"]  # a is done, and c would fit now
    assert t.step().new_requests == []
    t.add("late", [1], max_tokens=9)
    assert [new.request.request_id for new in t.step().new_requests] == ["c", "late"]
    t.add("too late", [1], max_tokens=1)
    t.run()
    assert [new.request.request_id for new in t.history[-1].new_requests] == ["too late"]


def test_a_static_batch_stays_open_for_choices_that_wait_for_their_prompt(toy):
    t = toy(num_blocks=99, enable_static_batching=True, max_num_seqs=3)
    first = t.add("a", [1] * 5, max_tokens=6)
    for index in (1, 2, 3):
        t.add(f"a{index}", [1] * 5, max_tokens=6, seed=index, fork_from=first)
    t.run()
    assert [len(o.num_scheduled_tokens) for o in t.history] == [1] + [3] * 5 + [2] + [1] * 6


def test_nobody_gives_way_to_an_urgent_request_that_a_closed_batch_keeps_out(toy):
    t = toy(num_blocks=99, enable_static_batching=True, policy="priority", max_num_seqs=2)
    for name in "ab":
        t.add(name, [1, 2], max_tokens=5, priority=1)
    t.step()
    t.add("urgent", [3], max_tokens=1, priority=0)
    t.run()
    assert t.scheduler.num_preemptions == 0
    t.check_outputs()


def test_swapped_blocks_come_back_and_nothing_is_computed_twice(toy):
    def computed_tokens(mode):
        t = toy(
            num_blocks=7,
            block_size=2,
            caching=False,
            preemption_mode=mode,
            num_swap_blocks=10 * (mode == "swap"),
        )
        t.add("a", range(5), max_tokens=6)
        t.add("b", range(5), max_tokens=6)
        t.run()
        t.check_outputs()
        assert t.scheduler.num_preemptions >= 1
        assert (t.worker.num_moved["swap_in"] > 0) == (mode == "swap")
        return sum(o.total_num_scheduled_tokens for o in t.history)

    assert computed_tokens("swap") == 2 * (5 + 6 - 1)
    assert computed_tokens("recompute") > 2 * (5 + 6 - 1)


def test_a_full_swap_space_falls_back_to_recomputing(toy):
    t = toy(num_blocks=7, block_size=2, caching=False, preemption_mode="swap", num_swap_blocks=1)
    t.add("a", range(5), max_tokens=6)
    t.add("b", range(5), max_tokens=6)
    t.run()
    t.check_outputs()
    assert t.worker.num_moved["swap_out"] == 0 and t.scheduler.num_preemptions >= 1


@pytest.mark.parametrize("swap_per_block, swaps", [(1.0, True), (1.5, False), (1.6, False)])
def test_auto_swaps_when_moving_blocks_costs_less_than_computing_tokens(swap_per_block, swaps):
    # 9 tokens in 3 blocks: 2 x 3 x 1.0 = 6 < 9, 2 x 3 x 1.5 is as much, and 2 x 3 x 1.6 = 9.6 > 9
    assert PreemptionCosts(1.0, swap_per_block).swap_pays(num_tokens=9, num_blocks=3) is swaps


@pytest.mark.parametrize("window, block_size", [(1, 1), (4, 2), (5, 3), (3, 4), (8, 4)])
def test_blocks_behind_the_window_are_freed_while_the_request_runs(toy, window, block_size):
    """After a step a request holds the blocks that the step's first token looked at, up to its last, and no other."""
    t = toy(num_blocks=40, block_size=block_size, window=window, caching=False, max_num_batched_tokens=5)
    t.add("a", range(13), max_tokens=20)
    while t.scheduler.has_unfinished_requests():
        output = t.step()
        if t.requests["a"].status.is_finished:
            break
        start = output.num_computed_tokens["a"]
        last = start + output.num_scheduled_tokens["a"] - 1
        seen = range(max(0, start - window + 1) // block_size, last // block_size + 1)
        held = t.manager.block_ids("a")
        assert [index for index, block_id in enumerate(held) if block_id != 0] == list(seen)
        assert t.worker.tables["a"] == held  # the worker is told which ones are gone
    t.check_outputs()


def test_a_deadline_aborts_and_frees_at_once(toy):
    t = toy(num_blocks=20)
    t.add("late", range(4), max_tokens=20, deadline=10.0)
    t.add("patient", range(4), max_tokens=3)
    t.step()
    assert t.scheduler.finish_expired(9.9) == []
    assert [r.request_id for r in t.scheduler.finish_expired(10.0)] == ["late"]
    assert "late" not in t.manager.tables()
    t.manager.check_integrity()
    t.run()


def test_a_full_queue_refuses_and_changes_nothing(toy):
    t = toy(max_num_queued_reqs=2)
    t.add("a", [1])
    t.add("b", [1])
    with pytest.raises(QueueFullError, match="2 requests are waiting, and max_num_queued_reqs is 2"):
        t.add("c", [1])
    assert list(t.scheduler.requests) == ["a", "b"]
    t.step()  # both run now
    t.add("d", [1])
    t.run()
