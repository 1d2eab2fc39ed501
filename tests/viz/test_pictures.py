"""The pictures of a recording tell what the recording holds: numbers in the picture against the engine's own."""

import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.recorder import Recorder
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.sim.memory_stepper import memory_stepper
from minivllm.sim.trace import fixed_trace
from minivllm.viz import memory, palette
from minivllm.viz.drawing import STYLE
from minivllm.viz.frames import block_map_stepper
from minivllm.viz.gantt import gantt, gantt_stepper
from minivllm.viz.prefix_chain import prefix_stepper
from minivllm.viz.references import reference_stepper
from minivllm.viz.slots import draw_slots, explain, slot_stepper, to_text

LENGTHS = {"ann": (9, 8), "ben": (14, 6), "cat": (5, 20), "dan": (11, 18)}


def make_request(name, prompt, max_tokens):
    return Request(
        name, prompt, SamplingParams(max_tokens=max_tokens, ignore_eos=True), max_tokens=max_tokens
    )


@pytest.fixture(scope="module")
def log():
    """Four requests in a memory that is too small for all of them."""
    manager = KVCacheManager(13, 4)
    scheduler = Scheduler(
        SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=12, max_model_len=40), manager
    )
    with Recorder(manager, scheduler, with_queue=True) as log:
        for name, (prompt, output) in LENGTHS.items():
            scheduler.add_request(make_request(name, [ord(name[0])] * prompt, output))
        while scheduler.has_unfinished_requests():
            step = scheduler.schedule()
            counts = step.num_scheduled_tokens
            done = [
                n
                for n in counts
                if step.num_computed_tokens[n] + counts[n] == scheduler.requests[n].num_tokens
            ]
            scheduler.update_from_output(step, {name: [7] for name in done})
    assert any(event.kind == "preempt" for event in log)
    return log


STEPPERS = [block_map_stepper, reference_stepper, gantt_stepper, prefix_stepper]


@pytest.mark.parametrize("make", STEPPERS, ids=lambda make: make.__name__)
def test_every_frame_is_well_formed_and_described(log, make):
    stepper = make(log)
    assert len(stepper.frames) > 10
    for frame in stepper.frames:
        ElementTree.fromstring(frame.drawing.to_svg())
        assert frame.caption.startswith("Step ") and len(frame.drawing.alt) > 20 and frame.drawing.text
    assert make(log).to_html() == stepper.to_html()
    sizes = {(frame.drawing.width, frame.drawing.height) for frame in stepper.frames}
    assert len(sizes) == 1, "a picture that changes its size makes the page jump"


def test_the_block_map_by_step_is_the_state_after_each_step(log):
    frames = block_map_stepper(log, by_step=True).frames
    last = {}
    for event, state in log.replay_copies():
        last[event.step] = state
    assert len(frames) == len(last)
    for frame, state in zip(frames, last.values(), strict=True):
        held = {block for table in state.tables.values() for block in table}
        assert f"{len(held)} held by {len(state.tables)} requests" in frame.drawing.alt


def test_the_gantt_chart_counts_what_was_scheduled(log):
    schedules = [event for event in log if event.kind == "schedule"]
    total = sum(sum(event.num_scheduled_tokens.values()) for event in schedules)
    chart = gantt(log)
    assert f"{len(schedules)} steps: {total} tokens computed" in chart.alt
    for name in LENGTHS:
        (line,) = re.findall(rf"^{name} (.*)$", chart.text, re.M)
        computing = [index for index, character in enumerate(line) if character in "Pd"]
        assert computing == [i for i, e in enumerate(schedules) if name in e.num_scheduled_tokens]
    preempted = Counter(event.kind for event in log)["preempt"]
    assert sum(line.count("x") for line in chart.text.splitlines()[:4]) == preempted > 0


def test_the_reference_counts_are_those_of_the_tables(log):
    for frame, (_, state) in zip(
        reference_stepper(log, kinds=("alloc", "free")).frames,
        [pair for pair in log.replay_copies() if pair[0].kind in ("alloc", "free")],
        strict=True,
    ):
        counts = Counter(block for table in state.tables.values() for block in table)
        told = dict(re.findall(r"(\d+): (\d+)", frame.drawing.text.rpartition("a block: ")[2]))
        assert {int(k): int(v) for k, v in told.items()} == counts


def test_the_queue_under_the_chains_is_the_one_after_the_event(log):
    pairs = list(log.replay_copies())
    frees = [i for i, (event, _) in enumerate(pairs) if event.kind == "free"]
    frames = prefix_stepper(log, kinds=("free",)).frames
    for frame, index in zip(frames, frees, strict=True):
        queue = pairs[index + 1][0].block_ids  # recorded right after the change
        line = frame.drawing.text.splitlines()[-1].removeprefix("free queue: ").partition("   ")[0]
        assert [int(name.rstrip("+")) for name in line.split()] == list(queue)


def test_chains_without_a_recorded_queue_are_refused():
    manager = KVCacheManager(6, 2)
    with Recorder(manager) as log:
        manager.allocate_slots(make_request("a", [1], 1), 1)
    with pytest.raises(ValueError, match="record it with_queue=True"):
        prefix_stepper(log)


# -- slots -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.permutations(range(1, 8)), st.integers(1, 7), st.data())
def test_the_slot_picture_shows_the_given_slots(block_size, ids, num_blocks, data):
    ids = ids[:num_blocks]
    num_tokens = data.draw(st.integers((num_blocks - 1) * block_size + 1, num_blocks * block_size))
    walked = [block * block_size + offset for block in ids for offset in range(block_size)][:num_tokens]
    stepper = slot_stepper(walked, block_ids=ids, block_size=block_size, num_blocks=8)
    for position, frame in enumerate(stepper.frames):
        assert frame.caption.endswith(f"= {walked[position]}.")
        assert "but the code" not in frame.caption
        targets = [int(g) for shape in frame.drawing.shapes for g in re.findall(r'data-go="(\d+)"', shape)]
        assert Counter(targets) == Counter([*range(num_tokens)] * 2)  # above, and in the memory
    rows = to_text(walked, block_size, 8).splitlines()
    cells = [cell for row in rows for cell in re.split(r"slots +\d+-\d+ +", row)[1].split()]
    assert [slot for slot, cell in enumerate(cells) if cell != "."] == sorted(walked)


def test_a_wrong_slot_is_shown_as_wrong():
    assert explain(5, 21, [7, 1], 4).endswith("so slot 1 * 4 + 1 = 5; but the code answers slot 21")
    assert "cannot be right" in explain(9, 3, [7, 1], 4)
    drawing = draw_slots([28, 99], 1, block_ids=[7], block_size=4, num_blocks=8)  # outside the memory
    ElementTree.fromstring(drawing.to_svg())


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_segments_of_a_bar_cover_the_memory_once(monkeypatch):
    bars = []
    monkeypatch.setattr(
        "minivllm.sim.memory_stepper.draw_memory",
        lambda moment, capacity: bars.append(moment) or memory.draw_memory(moment, capacity),
    )
    trace = fixed_trace([(20, 30), (50, 10), (10, 60), (40, 25), (30, 30)])
    names = ["max", "pow2", "buddy", "paged"]
    stepper = memory_stepper(trace, names, 256, block_size=8, max_model_len=128, max_frames=10)
    assert 5 <= len(stepper.frames) <= 10
    for moment in bars:
        assert list(moment) == names
        for bar in moment.values():
            ordered = sorted(bar.segments, key=lambda segment: segment.start)
            ends = [0, *(segment.start + segment.size for segment in ordered)]
            assert [segment.start for segment in ordered] == ends[:-1] and ends[-1] == 256
    used = [sum(s.size for s in bars[3][name].segments if s.state == "used") for name in names]
    assert min(used) > 0


# -- colours -----------------------------------------------------------------------------------------------------------


def test_text_on_the_page_has_contrast_in_both_themes():
    light, _, dark = STYLE.partition("@media")
    for theme, paper in ((light, "#ffffff"), (dark, "#16181d")):
        for name in ("ink", "soft"):
            (color,) = re.findall(rf"\.mv-{name}\{{fill:(#\w+)\}}", theme)
            assert palette.contrast(color, paper) >= 4.5
