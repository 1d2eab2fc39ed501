"""Traces: published means, seeds, arrivals, JSON there and back, and a sentence for everything that is wrong."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.sim.lengths import Constant, Exponential
from minivllm.sim.trace import Trace, TraceRequest, dataset_trace, fixed_trace, generate_trace


@pytest.mark.parametrize(("dataset", "prompt", "output"), [("sharegpt", 161, 338), ("alpaca", 19, 58)])
@pytest.mark.parametrize("shape", ["exponential", "lognormal"])
@pytest.mark.parametrize("seed", [0, 1])
def test_published_means(dataset, prompt, output, shape, seed):
    trace = dataset_trace(dataset, 400, shape=shape, seed=seed)
    assert trace.mean_prompt_len == pytest.approx(prompt, abs=0.05)
    assert trace.mean_output_len == pytest.approx(output, abs=0.05)
    assert all(r.prompt_len + r.output_len <= 2048 for r in trace.requests)


def test_short_chats_stay_in_their_ranges():
    trace = dataset_trace("short-chats", 500)
    assert {r.prompt_len for r in trace.requests} <= set(range(16, 257))
    assert {r.output_len for r in trace.requests} <= set(range(8, 129))
    assert trace.mean_prompt_len == pytest.approx(136, abs=8)


def test_one_prompt_in_eight_is_long():
    trace = dataset_trace("long-prompts", 80)
    assert [i for i, r in enumerate(trace.requests) if r.prompt_len == 1024] == list(range(4, 80, 8))
    small = dataset_trace("long-prompts", 80, max_model_len=512)
    assert all(r.prompt_len + r.output_len <= 512 for r in small.requests)


def test_a_system_prompt_is_in_front_of_every_prompt():
    trace = dataset_trace("system-prompt", 60)
    assert {r.shared_len for r in trace.requests} == {512}
    assert trace.mean_prompt_len == pytest.approx(512 + 64, abs=0.05)
    small = dataset_trace("system-prompt", 60, max_model_len=512)
    assert {r.shared_len for r in small.requests} == {128}
    assert all(r.prompt_len + r.output_len <= 512 for r in small.requests)


def test_every_fourth_request_of_two_tiers_is_urgent():
    trace = dataset_trace("two-tiers", 80)
    assert [i for i, r in enumerate(trace.requests) if r.priority == 0] == list(range(0, 80, 4))
    assert {r.priority for r in trace.requests} == {0, 1}


def test_the_seed_decides_everything_and_the_rate_only_the_arrivals():
    one, two, other = (dataset_trace("sharegpt", 50, rate=r, seed=s) for r, s in ((1, 3), (9, 3), (1, 4)))
    assert one == dataset_trace("sharegpt", 50, rate=1, seed=3)
    assert [r.prompt_len for r in one.requests] == [r.prompt_len for r in two.requests]
    assert [r.arrival for r in one.requests] == pytest.approx([9 * r.arrival for r in two.requests])
    assert [r.prompt_len for r in one.requests] != [r.prompt_len for r in other.requests]


def test_poisson_arrivals_come_at_their_rate_and_do_not_depend_on_one_another():
    trace = dataset_trace("alpaca", 4000, rate=5)
    times = [0.0, *(r.arrival for r in trace.requests)]
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert min(gaps) >= 0
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 5, rel=0.05)
    share_over_one_mean = sum(gap > 1 / 5 for gap in gaps) / len(gaps)
    assert share_over_one_mean == pytest.approx(math.exp(-1), abs=0.03)


def test_an_infinite_rate_is_a_backlog():
    assert {r.arrival for r in dataset_trace("alpaca", 20).requests} == {0.0}


def test_requests_stand_in_order_of_arrival():
    trace = fixed_trace([(1, 2), (3, 4), (5, 6)], arrivals=[2.0, 0.5, 2.0])
    assert [r.request_id for r in trace.requests] == ["r2", "r1", "r3"]
    assert [r.num_kv_tokens for r in trace.requests] == [6, 2, 10]


REQUESTS = st.builds(
    TraceRequest,
    request_id=st.text(min_size=1, max_size=5),
    arrival=st.floats(0, 1e6),
    prompt_len=st.integers(5, 10**6),
    output_len=st.integers(1, 10**6),
    shared_len=st.integers(0, 5),
    priority=st.integers(-3, 3),
)


@given(st.lists(REQUESTS, min_size=1, max_size=6, unique_by=lambda r: r.request_id))
def test_json_there_and_back(requests):
    trace = Trace("any", tuple(requests))
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace


def test_a_trace_may_leave_out_what_has_a_default():
    trace = Trace.from_json({"requests": [GOOD]})
    assert (trace.requests[0].shared_len, trace.requests[0].priority) == (0, 0)


def test_saved_and_loaded(tmp_path):
    trace = dataset_trace("alpaca", 5, rate=2)
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace


GOOD = {"request_id": "a", "arrival": 0, "prompt_len": 1, "output_len": 1}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "JSON object"),
        ({}, "JSON object"),
        ({"requests": 5}, "JSON object"),
        ({"requests": []}, "1 to 100000 requests"),
        ({"requests": [GOOD, GOOD]}, "same request_id"),
        ({"requests": [GOOD, 7]}, r"requests\[1\] must be an object"),
        ({"requests": [{**GOOD, "more": 1}]}, r"requests\[0\] must be an object"),
        ({"requests": [{"request_id": "a"}]}, r"requests\[0\] must be an object"),
        ({"requests": [{**GOOD, "prompt_len": 0}]}, "prompt_len of request 'a'"),
        ({"requests": [{**GOOD, "prompt_len": 10**9}]}, "prompt_len of request 'a'"),
        ({"requests": [{**GOOD, "output_len": True}]}, "output_len of request 'a'"),
        ({"requests": [{**GOOD, "output_len": 1.5}]}, "output_len of request 'a'"),
        ({"requests": [{**GOOD, "arrival": -1}]}, "arrival of request 'a'"),
        ({"requests": [{**GOOD, "arrival": math.nan}]}, "arrival of request 'a'"),
        ({"requests": [{**GOOD, "arrival": "0"}]}, "arrival of request 'a'"),
        ({"requests": [{**GOOD, "request_id": ""}]}, "request_id must be"),
        ({"requests": [{**GOOD, "shared_len": 2}]}, "shared_len of request 'a' must be an integer in"),
        ({"requests": [{**GOOD, "shared_len": -1}]}, "shared_len of request 'a'"),
        ({"requests": [{**GOOD, "shared_len": 0.5}]}, "shared_len of request 'a'"),
        ({"requests": [{**GOOD, "priority": "high"}]}, "priority of request 'a' must be an integer"),
    ],
)
def test_bad_json_gets_a_sentence(data, sentence):
    with pytest.raises(ValueError, match=sentence):
        Trace.from_json(data)


def test_a_file_that_is_not_json_gets_a_sentence(tmp_path):
    path = tmp_path / "trace.json"
    path.write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"trace\.json is not JSON"):
        Trace.load(path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: generate_trace(0, Constant(1), Constant(1)), "num_requests must be in"),
        (lambda: generate_trace(1, Constant(1), Constant(1), rate=0), "rate must be"),
        (lambda: generate_trace(1, Constant(1), Constant(1), rate=math.nan), "rate must be"),
        (lambda: generate_trace(1, Constant(1), Constant(1), max_model_len=1), "max_model_len must be"),
        (lambda: generate_trace(9, Exponential(300), Constant(1), max_model_len=400), "does not fit"),
        (lambda: dataset_trace("nobody", 5), "dataset must be one of"),
        (lambda: dataset_trace("alpaca", 5, shape="square"), "shape must be one of"),
        (lambda: fixed_trace([(1, 1)], arrivals=[]), "arrivals holds 0 times for 1 requests"),
    ],
)
def test_a_mistake_gets_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
