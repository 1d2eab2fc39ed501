"""The simulator page's JavaScript against minivllm.sim: the same frames, averages and sentences on random traces."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minivllm.sim.memory import MemorySimulator
from minivllm.sim.memory_report import run_memory
from minivllm.sim.policies import POLICIES, make_policy
from minivllm.sim.trace import fixed_trace
from minivllm.sim.usage import CLASSES

pytestmark = pytest.mark.browser
PAGE = Path(__file__).resolve().parents[2] / "book" / "simulator" / "index.html"

PLAY = """
const [requests, options] = arguments;
return Object.keys(POLICIES).map((name) => {
  let result;
  try { result = simulate(requests, name, options); } catch (error) { return [name, error.message]; }
  const frames = result.frames.map((f) => [
    f.step, f.event, f.id, [...CLASSES, "rounding"].map((c) => f.usage[c]), f.numRunning, f.numWaiting,
    f.layout.map((p) => [p.id, p.start, p.size, p.used, p.reserved])]);
  return [name, frames, summarize(result, options.capacity)];
});
"""


@pytest.fixture(scope="module")
def page(browser):
    browser.get(PAGE.as_uri())
    return browser


@st.composite
def traces(draw):
    """One to twelve requests, long ones or many short; arrivals now and then far apart, or between two steps."""
    length = st.integers(1, draw(st.sampled_from([4, 14])))
    lengths = draw(st.lists(st.tuples(length, length), min_size=1, max_size=12))
    times = st.one_of(st.integers(0, 8), st.sampled_from([0.5, 2.25, 90.0]))
    return fixed_trace(lengths, draw(st.lists(times, min_size=len(lengths), max_size=len(lengths))))


def in_python(trace, name, capacity, block_size, max_model_len, max_num_seqs):
    """What the page's `PLAY` returns for one policy: its frames and averages, or one sentence."""
    setting = {"block_size": block_size, "max_model_len": max_model_len}
    options = {"step_time": 1.0, "max_num_seqs": max_num_seqs}
    try:
        policy = make_policy(name, capacity, **setting)
        simulator = MemorySimulator(trace, policy, keep_layout=lambda step, event: True, **options)
    except ValueError as error:
        return [name, str(error)]
    frames = [
        [
            f.step,
            f.event,
            f.request_id,
            list(f.usage),
            f.num_running,
            f.num_waiting,
            [list(p) for p in f.layout],
        ]
        for f in simulator.frames()
    ]
    return [name, frames, run_memory(trace, make_policy(name, capacity, **setting), **options).summary]


def check_equal(found, expected):
    assert found[:2] == expected[:2]
    if len(expected) == 3:
        ours, summary = found[2], expected[2]
        assert ours["isUnderLoad"] == summary.is_under_load
        assert [ours["shares"][name] for name in CLASSES] == pytest.approx(list(summary.shares.values()))
        assert ours["wasteOfAllocated"] == pytest.approx(summary.waste_of_allocated)
        assert ours["meanRunning"] == pytest.approx(summary.mean_running)
        counts = [
            ours[name]
            for name in (
                "peakRunning",
                "numSteps",
                "numPreemptions",
                "numRecomputedTokens",
                "numCopiedTokens",
            )
        ]
        assert counts == [
            summary.peak_running,
            summary.num_steps,
            summary.num_preemptions,
            summary.num_recomputed_tokens,
            summary.num_copied_tokens,
        ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trace=traces(),
    capacity=st.sampled_from([16, 27, 32, 40, 64, 69]),
    block_size=st.sampled_from([1, 3, 4, 16]),
    max_model_len=st.sampled_from([20, 27, 32]),
    max_num_seqs=st.sampled_from([None, 2]),
)
def test_every_frame_is_the_simulators(page, trace, capacity, block_size, max_model_len, max_num_seqs):
    requests = [
        {"id": r.request_id, "arrival": r.arrival, "prompt": r.prompt_len, "output": r.output_len}
        for r in trace.requests
    ]
    options = {
        "capacity": capacity,
        "blockSize": block_size,
        "maxModelLen": max_model_len,
        "maxNumSeqs": max_num_seqs,
    }
    results = page.execute_script(PLAY, requests, options)
    assert [result[0] for result in results] == list(POLICIES)
    for result in results:
        check_equal(result, in_python(trace, result[0], capacity, block_size, max_model_len, max_num_seqs))
