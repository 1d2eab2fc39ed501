"""The step simulator: limits kept, nobody lost, times that add up, closed forms for both ways of batching."""

import heapq
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.sim.cost import KV_CAPACITY, CostModel
from minivllm.sim.memory import simulate_memory
from minivllm.sim.policies import make_policy
from minivllm.sim.schedule import simulate_schedule
from minivllm.sim.schedule_config import BATCHINGS, ScheduleConfig
from minivllm.sim.schedule_report import schedule_json, summarize_schedule
from minivllm.sim.stats import Distribution, percentile
from minivllm.sim.trace import Trace, dataset_trace, fixed_trace

UNIT = CostModel(per_step=1, per_token=0, per_context_token=0)  # a step takes a second: times count rounds
SOME = settings(max_examples=40)
LENGTHS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=14)
# More than fit at once.
MANY = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=5, max_size=14)
MAX_LEN = 32


@st.composite
def runs(draw):
    """A trace and a set-up that holds it, often too small to hold all of it at once."""
    lengths = draw(LENGTHS)
    times = draw(st.lists(st.floats(0, 5), min_size=len(lengths), max_size=len(lengths)))
    max_num_seqs = draw(st.integers(1, 6))
    is_chunked = draw(st.booleans())
    budget = draw(st.integers(max_num_seqs, 40)) if is_chunked else draw(st.integers(MAX_LEN, 48))
    cost = CostModel(*(draw(st.floats(0.01, 1)) for _ in range(3)))
    config = ScheduleConfig(
        batching=draw(st.sampled_from(list(BATCHINGS))),
        enable_chunked_prefill=is_chunked,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=MAX_LEN,
        capacity=draw(st.sampled_from([32, 50, 400])),
        block_size=4,
        cost=cost,
    )
    trace = fixed_trace(lengths, times)
    urgency = draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    urgent = tuple(replace(r, priority=p) for r, p in zip(trace.requests, urgency, strict=True))
    return Trace(trace.name, urgent), config


@SOME
@given(runs())
def test_limits_are_kept_and_everybody_finishes(run):
    trace, config = run
    result = simulate_schedule(trace, config)
    for step in result.steps:
        assert len(step.num_tokens) <= config.max_num_seqs
        assert sum(step.num_tokens.values()) <= config.max_num_batched_tokens
        assert 0 <= step.kv_usage <= 1
    finished = [request_id for step in result.steps for request_id in step.finished]
    assert sorted(finished) == sorted(request.request_id for request in trace.requests)
    for request in trace.requests:
        record = result.requests[request.request_id]
        assert len(record.token_times) == request.output_len
        assert request.arrival <= record.first_scheduled < record.token_times[0]
        assert record.num_preemptions == sum(request.request_id in step.preempted for step in result.steps)


@SOME
@given(runs())
def test_the_clock_is_the_cost_model_and_nothing_else(run):
    trace, config = run
    result = simulate_schedule(trace, config)
    computed, now = Counter(), 0.0
    for step in result.steps:
        for request_id in step.preempted:
            computed[request_id] = 0
        computed.update(step.num_tokens)
        context = sum(computed[request_id] for request_id in step.num_tokens)
        a, b, c = config.cost.per_step, config.cost.per_token, config.cost.per_context_token
        expected = a + b * sum(step.num_tokens.values()) + c * context if step.num_tokens else 0
        assert step.duration == pytest.approx(expected)
        assert step.start >= now - 1e-9, "steps overlap"
        if step.start > now + 1e-9:
            assert any(step.start == request.arrival for request in trace.requests), (
                "idle although there was work"
            )
        now = step.end


@SOME
@given(runs())
def test_every_token_is_computed_once_for_each_life(run):
    trace, config = run
    result = simulate_schedule(trace, config)
    total = sum(sum(step.num_tokens.values()) for step in result.steps)
    needed = sum(request.num_kv_tokens for request in trace.requests)
    has_preemptions = any(step.preempted for step in result.steps)
    assert total >= needed if has_preemptions else total == needed


@SOME
@given(runs())
def test_a_token_is_sampled_when_all_known_ones_are_computed_and_only_then(run):
    trace, config = run
    result = simulate_schedule(trace, config)
    computed, times = Counter(), {request.request_id: [] for request in trace.requests}
    for step in result.steps:
        for request_id in step.preempted:
            computed[request_id] = 0
        computed.update(step.num_tokens)
        for request_id in step.num_tokens:
            known = result.requests[request_id].request.prompt_len + len(times[request_id])
            assert computed[request_id] <= known
            if computed[request_id] == known:
                times[request_id].append(step.end)
    assert times == {who: record.token_times for who, record in result.requests.items()}


def test_recomputing_in_chunks_samples_nothing_before_its_end():
    """r2 has 2 + 5 tokens when r1 takes its memory. They come back as 4 and 3, and only then the sixth is sampled."""
    config = ScheduleConfig(max_num_seqs=2, max_num_batched_tokens=4, capacity=12, block_size=1, cost=UNIT)
    result = simulate_schedule(fixed_trace([(2, 7), (2, 7)]), config)
    assert [step.preempted for step in result.steps].index(("r2",)) == 5
    assert [step.num_tokens.get("r2", 0) for step in result.steps] == [2, 1, 1, 1, 1, 0, 0, 4, 3, 1]
    assert result.requests["r2"].token_times == [1, 2, 3, 4, 5, 9, 10]


def test_who_arrives_during_the_last_step_starts_after_it():
    result = simulate_schedule(fixed_trace([(1, 1), (1, 1)], [0.0, 0.25]), ScheduleConfig(cost=UNIT))
    assert [step.start for step in result.steps] == [0, 1]
    assert result.requests["r2"].ttft == 1.75


@SOME
@given(runs())
def test_end_to_end_is_first_token_plus_the_rest_at_tpot(run):
    trace, config = run
    result = simulate_schedule(trace, config)
    for record in result.requests.values():
        n = record.request.output_len
        assert record.e2e == pytest.approx(record.ttft + (n - 1) * (record.tpot or 0))
        assert sum(record.gaps) == pytest.approx(record.e2e - record.ttft)
        assert (record.tpot is None) == (n == 1)


@SOME
@given(runs())
def test_a_prompt_is_whole_or_cut_as_asked(run):
    trace, config = run
    result = simulate_schedule(trace, config)
    if config.enable_chunked_prefill or any(step.preempted for step in result.steps):
        return
    for request in trace.requests:
        who = request.request_id
        prefills = [step.num_tokens[who] for step in result.steps if who in step.prefill]
        assert prefills == [request.prompt_len]


@SOME
@given(LENGTHS, st.integers(1, 5))
def test_a_static_batch_lasts_as_long_as_its_longest_answer(lengths, max_num_seqs):
    config = ScheduleConfig(batching="static", max_num_seqs=max_num_seqs, cost=UNIT)
    result = simulate_schedule(fixed_trace(lengths), config)
    batches = [lengths[i : i + max_num_seqs] for i in range(0, len(lengths), max_num_seqs)]
    assert len(result.steps) == sum(max(output for _, output in batch) for batch in batches)
    assert [len(step.admitted) for step in result.steps if step.admitted] == [len(batch) for batch in batches]


@SOME
@given(LENGTHS, st.integers(1, 5))
def test_continuous_batching_is_list_scheduling(lengths, max_num_seqs):
    """With room for all prompts, a request takes the first free slot for as many rounds as it has tokens."""
    config = ScheduleConfig(batching="continuous", max_num_seqs=max_num_seqs, cost=UNIT)
    result = simulate_schedule(fixed_trace(lengths), config)
    free_at = [0] * max_num_seqs
    ends = []
    for _, output in lengths:
        ends.append(heapq.heappop(free_at) + output)
        heapq.heappush(free_at, ends[-1])
    assert [record.token_times[-1] for record in result.requests.values()] == ends
    summary = summarize_schedule(result)
    assert summary.slot_utilization == pytest.approx(sum(o for _, o in lengths) / (max(ends) * max_num_seqs))


@SOME
@given(LENGTHS, st.integers(1, 5))
def test_continuous_never_takes_more_rounds_than_static(lengths, max_num_seqs):
    rounds = {
        batching: len(
            simulate_schedule(
                fixed_trace(lengths), ScheduleConfig(batching=batching, max_num_seqs=max_num_seqs, cost=UNIT)
            ).steps
        )
        for batching in ("static", "continuous")
    }
    assert rounds["continuous"] <= rounds["static"]


@SOME
@given(LENGTHS)
def test_shortest_first_starts_in_order_of_work(lengths):
    config = ScheduleConfig(batching="shortest-first", max_num_seqs=1, cost=UNIT)
    result = simulate_schedule(fixed_trace(lengths), config)
    order = [int(who[1:]) - 1 for step in result.steps for who in step.admitted]
    assert order == sorted(range(len(lengths)), key=lambda i: (sum(lengths[i]), i))


@SOME
@given(MANY, st.sampled_from([32, 40, 60]))
def test_the_two_simulators_agree(lengths, capacity):
    """The memory simulator re-states the scheduler's rules on its own; block by block both must do the same."""
    trace = fixed_trace(lengths)
    frames = list(simulate_memory(trace, make_policy("paged", capacity, block_size=4), step_time=1.0))
    config = ScheduleConfig(
        max_num_seqs=99, max_num_batched_tokens=9999, capacity=capacity, block_size=4, cost=UNIT
    )
    result = simulate_schedule(trace, config)
    steps = [frame for frame in frames if frame.event == "step"]
    num_blocks = capacity // 4
    assert [frame.usage.allocated // 4 for frame in steps] == [
        round(s.kv_usage * num_blocks) for s in result.steps
    ]
    assert [frame.num_running for frame in steps] == [len(step.num_tokens) for step in result.steps]
    preempted = [(frame.step, frame.request_id) for frame in frames if frame.event == "preempt"]
    assert preempted == [(i, who) for i, step in enumerate(result.steps) for who in step.preempted]
    finished = {(frame.step, frame.request_id) for frame in frames if frame.event == "finish"}
    assert finished == {(i, who) for i, step in enumerate(result.steps) for who in step.finished}


def test_small_chunks_shorten_the_longest_gap_and_lengthen_the_wait_for_a_first_token():
    """The trade of chunked prefill (Sarathi-Serve, OSDI 2024)."""
    trace = dataset_trace("long-prompts", 80, rate=4)
    whole, chunked = (
        summarize_schedule(simulate_schedule(trace, config))
        for config in (
            ScheduleConfig(enable_chunked_prefill=False),
            ScheduleConfig(enable_chunked_prefill=True, max_num_batched_tokens=256),
        )
    )
    assert chunked.gap.max < whole.gap.max / 2
    assert chunked.ttft.p99 > whole.ttft.p99
    assert chunked.output_tokens_per_second == pytest.approx(whole.output_tokens_per_second, rel=0.02)


def test_continuous_batching_wins_about_twice_on_sharegpt_lengths():
    trace = dataset_trace("sharegpt", 120)
    static, continuous = (
        summarize_schedule(simulate_schedule(trace, ScheduleConfig(batching=batching)))
        for batching in ("static", "continuous")
    )
    assert 1.6 < continuous.output_tokens_per_second / static.output_tokens_per_second < 3
    assert continuous.slot_utilization > 2 * static.slot_utilization
    assert continuous.ttft.p50 < static.ttft.p50


def test_small_chunks_cost_a_step_each_and_change_nothing_else():
    """A prompt of 40 tokens takes ceil(40 / chunk) steps alone, and as many more as it decodes."""
    for chunk in (1, 3, 16, 40, 99):
        config = ScheduleConfig(max_num_seqs=1, max_num_batched_tokens=chunk, cost=UNIT)
        result = simulate_schedule(fixed_trace([(40, 5)]), config)
        assert result.requests["r1"].ttft == -(-40 // chunk)
        assert result.requests["r1"].e2e == -(-40 // chunk) + 4


@SOME
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 8), st.integers(1, 4)), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(8, 60),
)
def test_a_shared_prefix_is_computed_once_and_all_else_as_without_caching(shapes, block_size, budget):
    """Everybody has some of a common prefix. With room for all, each full block of it is computed a single time."""
    requests = [
        replace(r, shared_len=shared)
        for r, (shared, own, _) in zip(
            fixed_trace([(s + n, m) for s, n, m in shapes]).requests, shapes, strict=True
        )
    ]
    trace = Trace("shared", tuple(requests))
    config = ScheduleConfig(
        max_num_seqs=8, max_num_batched_tokens=budget, capacity=4000, block_size=block_size, cost=UNIT
    )
    cached = summarize_schedule(simulate_schedule(trace, replace(config, enable_prefix_caching=True)))
    plain = summarize_schedule(simulate_schedule(trace, config))
    full = [r.shared_len // block_size for r in trace.requests]
    assert plain.num_computed_tokens == sum(r.num_kv_tokens for r in trace.requests)
    assert cached.num_computed_tokens == plain.num_computed_tokens - (sum(full) - max(full)) * block_size


def test_the_urgent_gain_what_the_others_lose():
    trace = dataset_trace("two-tiers", 120, rate=30)
    fcfs, priority = (
        summarize_schedule(simulate_schedule(trace, ScheduleConfig(batching=b, max_num_seqs=8)))
        for b in ("continuous", "priority")
    )
    assert list(priority.ttft_by_priority) == [0, 1]
    assert priority.ttft_by_priority[0].p99 < fcfs.ttft_by_priority[0].p50 / 2
    assert priority.ttft_by_priority[1].p50 > fcfs.ttft_by_priority[1].p50
    assert priority.num_preemptions > 0 == fcfs.num_preemptions


@SOME
@given(LENGTHS, st.data())
def test_with_one_slot_the_urgent_start_first(lengths, data):
    priorities = data.draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    requests = fixed_trace(lengths).requests
    trace = Trace("p", tuple(replace(r, priority=p) for r, p in zip(requests, priorities, strict=True)))
    result = simulate_schedule(trace, ScheduleConfig(batching="priority", max_num_seqs=1, cost=UNIT))
    order = [int(who[1:]) - 1 for step in result.steps for who in step.admitted]
    assert order == sorted(range(len(lengths)), key=lambda i: (priorities[i], i))


def test_the_cost_of_a_step_by_hand():
    cost = CostModel(per_step=10, per_token=2, per_context_token=0.5)
    assert cost.step_time({"a": 3, "b": 1}, {"a": 0, "b": 7}) == 10 + 2 * 4 + 0.5 * (3 + 8)


def test_the_default_costs_are_the_data_sheets_arithmetic():
    cost = CostModel()
    assert cost.per_step == pytest.approx(26e9 / 1555e9)
    assert cost.per_token == pytest.approx(26e9 / 312e12)
    assert cost.per_context_token == pytest.approx(819_200 / 1555e9)
    assert KV_CAPACITY == 15_728 == 983 * 16


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 100))
def test_percentiles_are_numpys(values, percent):
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


def test_a_distribution_of_nothing_is_none():
    assert Distribution.of([]) is None
    assert Distribution.of([3.0]) == Distribution(3, 3, 3, 3, 3)
    with pytest.raises(ValueError, match="percentile needs values"):
        percentile([], 50)


def test_figures_by_hand():
    """Two requests at 1 s, 3 + 2 and 1 + 1 tokens, a second a step: batches of two and one, done at 2 s and 3 s."""
    config = ScheduleConfig(max_num_seqs=4, capacity=40, block_size=4, cost=UNIT)
    summary = summarize_schedule(simulate_schedule(fixed_trace([(3, 2), (1, 1)], [1.0, 1.0]), config))
    assert (summary.num_steps, summary.makespan, summary.num_preemptions) == (2, 2, 0)
    assert (summary.output_tokens_per_second, summary.requests_per_second) == (1.5, 1)
    assert summary.tokens_per_step == (3 + 1 + 1) / 2
    assert summary.slot_utilization == (2 + 1) / (2 * 4)
    assert summary.kv_utilization == pytest.approx((2 + 1) / (2 * 10))
    assert (summary.ttft.mean, summary.e2e.mean, summary.tpot.mean, summary.gap.max) == (1, 1.5, 1, 1)


def test_json_tells_the_whole_story():
    result = simulate_schedule(fixed_trace([(3, 2), (1, 1)]), ScheduleConfig(cost=UNIT))
    data = schedule_json(result)
    assert data["steps"][0]["num_tokens"] == {"r1": 3, "r2": 1}
    assert data["steps"][0]["prefill"] == ["r1", "r2"] and data["steps"][1]["prefill"] == []
    assert [request["finished"] for request in data["requests"]] == [2, 1]
    assert data["summary"]["num_steps"] == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"batching": "dynamic"}, "batching must be one of static, continuous"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"capacity": 8}, "must hold at least one block"),
        ({"max_num_seqs": 4096}, "must be at least max_num_seqs"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 512}, "must be at least max_model_len"),
    ],
)
def test_a_set_up_that_cannot_be_gets_a_sentence(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        ScheduleConfig(**fields)


@pytest.mark.parametrize("constants", [(-1, 0, 0), (0, 0, 1), (float("inf"), 0, 0), (1, float("nan"), 0)])
def test_costs_that_cannot_be_get_a_sentence(constants):
    with pytest.raises(ValueError, match="per_"):
        CostModel(*constants)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"max_model_len": 63}, "'r1' has 64 tokens, more than max_model_len"),
        ({"capacity": 62, "block_size": 8}, "'r1' needs 63 tokens of KV cache, and the blocks hold 56"),
    ],
)
def test_a_request_that_can_never_fit_is_refused_at_the_door(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        simulate_schedule(fixed_trace([(32, 32)]), ScheduleConfig(**fields))
