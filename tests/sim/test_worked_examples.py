"""The small examples that introductions to vLLM use, with their exact numbers."""

import pytest

from minivllm.core.block_pool import BlockPool
from minivllm.core.block_table import BlockTable
from minivllm.sim.cost import CostModel
from minivllm.sim.memory import simulate_memory
from minivllm.sim.memory_report import expected_paged_waste, run_memory
from minivllm.sim.policies import make_policy
from minivllm.sim.schedule import simulate_schedule
from minivllm.sim.schedule_config import ScheduleConfig
from minivllm.sim.schedule_report import round_log, summarize_schedule
from minivllm.sim.trace import dataset_trace, fixed_trace

UNIT = CostModel(per_step=1, per_token=0, per_context_token=0)


def test_85_tokens_take_six_blocks_of_16_and_leave_11_slots():
    policy = make_policy("paged", 16 * 10)
    steps = [f.usage for f in simulate_memory(fixed_trace([(85, 1)]), policy) if f.event == "step"]
    (usage,) = steps
    assert usage.allocated == 6 * 16
    assert (usage.used, usage.internal, usage.free) == (85, 11, 4 * 16)


def test_token_50_of_the_table_10_15_7_22_lies_in_its_fourth_block_at_offset_2():
    pool, table = BlockPool(23), BlockTable(16)
    table.append([pool.blocks[block_id] for block_id in (10, 15, 7, 22)])
    assert divmod(50, 16) == (3, 2)
    assert table.locate(50) == (22, 2)
    assert [table.locate(first)[0] for first in (0, 16, 32, 48)] == [10, 15, 7, 22]
    assert table.num_blocks_missing(50) == 0, "50 tokens, positions 0 to 49, fit"
    assert table.locate(49) == (22, 1), "the last of them"


def test_seven_short_requests_held_hostage_by_a_long_one():
    """7 x 5 tokens and 1 x 50 in a static batch of 8: 45 of 50 rounds with 7 of 8 slots idle."""
    trace = fixed_trace([(1, 5)] * 7 + [(1, 50)])
    result = simulate_schedule(trace, ScheduleConfig(batching="static", max_num_seqs=8, cost=UNIT))
    batch_sizes = [len(step.num_tokens) for step in result.steps]
    assert batch_sizes == [8] * 5 + [1] * 45
    assert summarize_schedule(result).slot_utilization == pytest.approx(85 / 400)


def test_the_hostages_seats_are_given_to_others_by_continuous_batching():
    """63 more short requests wait: 85 + 315 tokens fill 8 slots for exactly the 50 rounds of the long one."""
    trace = fixed_trace([(1, 5)] * 7 + [(1, 50)] + [(1, 5)] * 63)
    rounds = {}
    for batching in ("static", "continuous"):
        result = simulate_schedule(trace, ScheduleConfig(batching=batching, max_num_seqs=8, cost=UNIT))
        rounds[batching] = len(result.steps)
    assert rounds == {"static": 50 + 8 * 5, "continuous": 50}
    assert summarize_schedule(result).slot_utilization == 1.0


FIVE_PROMPTS = [[1, 2, 3, 4], [5, 6], [7, 8, 9], [10], [11, 12, 13, 14, 15]]


def five_requests(outputs):
    trace = fixed_trace(zip(map(len, FIVE_PROMPTS), outputs, strict=True))
    return simulate_schedule(trace, ScheduleConfig(max_num_seqs=4, max_model_len=1024, cost=UNIT))


def test_five_requests_with_a_cap_of_four():
    """Round 1: four of five run, the first finishes. Round 2: the fifth joins, and finishes."""
    first, second, *rest = five_requests([1, 3, 3, 3, 1]).steps
    assert first.admitted == ("r1", "r2", "r3", "r4") == tuple(first.num_tokens)
    assert first.finished == ("r1",) and first.num_waiting == 1
    assert second.admitted == ("r5",) and "r5" in second.finished
    # A demo that forgets who is running would show a batch of one here. The three others still run:
    assert list(second.num_tokens) == ["r2", "r3", "r4", "r5"]
    assert [len(step.num_tokens) for step in rest] == [3]


def test_five_requests_with_a_cap_of_four_as_a_log():
    assert round_log(five_requests([1, 1, 1, 1, 1])).splitlines() == [
        "round 1 | batch of 4 [r1:4 r2:2 r3:3 r4:1] | joined r1 r2 r3 r4 | finished r1 r2 r3 r4 | waiting 1",
        "round 2 | batch of 1 [r5:5] | joined r5 | finished r5 | waiting 0",
    ]


def test_reserving_2048_and_using_a_half():
    """Three requests of 800, 1,400 and 600 tokens, 2,048 reserved for each: 54 % of what is reserved is never used."""
    policy = make_policy("max-first-fit", 3 * 2048)
    frames = simulate_memory(fixed_trace([(800, 1), (1400, 1), (600, 1)]), policy)
    usage = next(frame.usage for frame in frames if frame.event == "step")
    assert (usage.used, usage.internal) == (2800, 3344)
    assert usage.internal / usage.capacity == pytest.approx(0.544, abs=0.001)
    paged = make_policy("paged", 3 * 2048)
    frames = simulate_memory(fixed_trace([(800, 1), (1400, 1), (600, 1)]), paged)
    usage = next(frame.usage for frame in frames if frame.event == "step")
    assert usage.internal == 0 + 8 + 8


def test_paged_waste_on_sharegpt_lengths_is_under_4_percent_where_reserving_the_maximum_wastes_three_quarters():
    trace = dataset_trace("sharegpt", 120)
    paged, contiguous = (run_memory(trace, make_policy(name, 15_728)).summary for name in ("paged", "max"))
    assert paged.waste_of_allocated < 0.04
    assert paged.waste_of_allocated == pytest.approx(
        expected_paged_waste(paged.mean_live_tokens, 16), abs=0.001
    )
    assert contiguous.waste_of_allocated > 0.7


@pytest.mark.parametrize("block_size", [8, 16, 32])
def test_paged_waste_on_short_chats_is_half_a_block_each(block_size):
    trace = dataset_trace("short-chats", 300)
    summary = run_memory(trace, make_policy("paged", 15_728, block_size=block_size)).summary
    expected = expected_paged_waste(summary.mean_live_tokens, block_size)
    assert summary.waste_of_allocated == pytest.approx(expected, rel=0.05)


def test_the_waste_formula_by_hand():
    assert expected_paged_waste(92.5, 16) == 7.5 / 100
    assert expected_paged_waste(100, 1) == 0
