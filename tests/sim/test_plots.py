"""What the pictures are drawn from, and that they are drawn. What they look like is for people to judge."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.sim.cli import main
from minivllm.sim.cost import CostModel
from minivllm.sim.memory import simulate_memory
from minivllm.sim.plot_memory import address_map
from minivllm.sim.plot_schedule import gantt_bars
from minivllm.sim.policies import make_policy
from minivllm.sim.schedule import simulate_schedule
from minivllm.sim.schedule_config import ScheduleConfig
from minivllm.sim.trace import fixed_trace
from minivllm.sim.usage import CLASSES

LENGTHS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 8)), min_size=1, max_size=8)


@settings(max_examples=40)
@given(LENGTHS, st.integers(4, 30), st.sampled_from([32, 400]))
def test_bars_cover_every_request_from_arrival_to_end(lengths, budget, capacity):
    trace = fixed_trace(lengths, [i / 3 for i in range(len(lengths))])
    config = ScheduleConfig(
        max_num_seqs=4,
        max_num_batched_tokens=budget,
        capacity=capacity,
        block_size=4,
        cost=CostModel(1, 0.1, 0),
    )
    result = simulate_schedule(trace, config)
    bars = defaultdict(list)
    for bar in gantt_bars(result):
        bars[bar.request_id].append(bar)
    for who, record in result.requests.items():
        mine = bars[who]
        assert mine[0].start == record.request.arrival and mine[-1].end == record.token_times[-1]
        for one, other in zip(mine, mine[1:], strict=False):
            assert one.end == other.start and one.kind != other.kind
        assert all(bar.start < bar.end for bar in mine)
        busy = sum(step.duration for step in result.steps if who in step.num_tokens)
        assert sum(bar.end - bar.start for bar in mine if bar.kind != "waiting") == pytest.approx(busy)
        assert [bar.kind for bar in mine if bar.kind != "waiting"][0] == "prefill"


def test_the_map_shows_each_slot_when_there_is_room_for_all():
    """One request of 3 + 2 tokens in 8 slots, reserved by the oracle: one slot is promised, then written."""
    pytest.importorskip("numpy")
    policy = make_policy("oracle-first-fit", 6)
    frames = simulate_memory(
        fixed_trace([(3, 2)]), policy, events=("step",), keep_layout=lambda step, event: True
    )
    cells = address_map(list(frames), 6)
    letters = ["".join(CLASSES[index][0] for index in column) for column in cells.T]
    assert letters == ["uuurff", "uuuuff"]


@pytest.mark.parametrize(("command", "ending"), [("memory", "png"), ("memory", "svg"), ("schedule", "png")])
def test_a_picture_is_written(command, ending, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"picture.{ending}"
    assert main([command, "--num-requests", "8", "--dataset", "alpaca", "--plot", str(path)]) == 0
    content = path.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG") and len(content) > 20_000
    else:
        assert b"</svg>" in content
    capsys.readouterr()
