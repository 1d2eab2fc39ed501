"""Figure 2 of the PagedAttention paper, in shape: order, size, and the arithmetic that has no randomness in it."""

import pytest

from minivllm.sim.memory_report import run_memory
from minivllm.sim.paper import PAPER, regroup
from minivllm.sim.policies import make_policy
from minivllm.sim.trace import dataset_trace


@pytest.fixture(scope="module")
def summaries():
    trace = dataset_trace("sharegpt", 160, seed=0)
    return {name: run_memory(trace, make_policy(name, 15_728)).summary for name in PAPER}


def test_used_memory_is_near_the_papers(summaries):
    for name, bar in PAPER.items():
        assert 100 * summaries[name].shares["used"] == pytest.approx(bar.used, abs=5), name


def test_the_classes_are_near_the_papers(summaries):
    for name in ("max", "pow2", "oracle"):
        ours = regroup(summaries[name])
        assert sum(ours.values()) == pytest.approx(100)
        for kind, share in ours.items():
            assert share == pytest.approx(getattr(PAPER[name], kind), abs=8), (name, kind)


def test_the_order_is_the_papers(summaries):
    used = [summaries[name].shares["used"] for name in ("max", "pow2", "oracle", "paged")]
    batch = [summaries[name].mean_running for name in ("max", "pow2", "oracle", "paged")]
    assert used == sorted(used) and batch == sorted(batch)
    assert used[3] > 2 * used[2], "even knowing the future, contiguous memory holds less than half"


def test_orca_max_holds_seven_requests_and_leaves_the_rest(summaries):
    """No randomness: 15,728 slots hold 7 x 2,048, and 8.9 % is left over, as in figures 2 and 13a."""
    assert summaries["max"].mean_running == PAPER["max"].batch == 15_728 // 2048
    assert regroup(summaries["max"])["others"] == pytest.approx(PAPER["max"].others, abs=0.06)


def test_batches_are_near_the_papers(summaries):
    for name, bar in PAPER.items():
        assert summaries[name].mean_running == pytest.approx(bar.batch, rel=0.25), name


def test_the_papers_batches_have_the_ratios_of_its_text():
    """Section 6.2: 2.2 times as many requests at the same time as Orca (Oracle), and 4.3 times as many as (Max)."""
    assert round(PAPER["paged"].batch / PAPER["oracle"].batch, 1) == 2.2
    assert round(PAPER["paged"].batch / PAPER["max"].batch, 1) == 4.3


def test_the_papers_bars_add_up_to_a_hundred():
    for name in ("max", "pow2", "oracle"):
        bar = PAPER[name]
        assert bar.used + bar.reserved + bar.internal + bar.others == pytest.approx(100, abs=0.15)
