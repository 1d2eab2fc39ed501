"""The dashboard: its numbers against the engine that was recorded, step by step."""

from xml.etree import ElementTree

import pytest

from minivllm.course.toy_engine import ToyEngine
from minivllm.events import EventLog
from minivllm.recorder import Recorder
from minivllm.viz.dashboard import dashboard, dashboard_stepper, readings

NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def story():
    """A load with a preemption and a client that leaves; what the engine says after each step, and the log."""
    engine = ToyEngine(num_blocks=9, block_size=2, max_num_seqs=3, max_num_batched_tokens=8)
    truth = []
    with Recorder(engine.manager, engine.scheduler) as log:
        engine.add("a", range(5), 6)
        engine.add("b", range(10, 14), 6)
        engine.add("c", range(20, 23), 5)
        while engine.unfinished:
            step = engine.step()
            if len(engine.steps) == 3:
                engine.abort("b")
            said = sum(map(len, engine.outputs.values()))
            truth.append((step.load, len(engine.scheduler.waiting), engine.num_held, said))
    return truth, log


def test_every_step_says_what_the_engine_says(story):
    truth, log = story
    by_step = {reading.step: reading for reading, _ in readings(log)}
    found = [
        (one.num_tokens, one.num_waiting, one.num_blocks_used, one.num_generated)
        for number, one in sorted(by_step.items())
        if number
    ]
    assert found == truth


def test_who_has_left_is_told_apart_from_who_is_done(story):
    *_, (last, _) = readings(story[1])
    assert last.states == {"a": "done", "b": "left", "c": "done"}
    assert last.num_blocks_used == 0 and "0 of 8 blocks in use" in dashboard(story[1]).alt


def test_a_first_token_is_counted_from_the_arrival(story):
    *_, (last, _) = readings(story[1])
    assert len(last.first_tokens) == 3 and last.first_tokens[0] == 1


def test_a_preempted_request_waits(story):
    assert any("preempted" in reading.states.values() for reading, _ in readings(story[1]))
    assert "x" in dashboard(story[1]).text


def test_before_anything_has_happened():
    drawing = dashboard(EventLog(9, 2))
    assert drawing.alt.startswith("Step 0: 0 running, 0 waiting") and "0 of 8 blocks" in drawing.text


def test_a_square_for_each_block_and_a_pill_for_each_request(story):
    stepper = dashboard_stepper(story[1])
    for frame, (reading, _) in zip(stepper.frames, readings(story[1]), strict=True):
        tree = ElementTree.fromstring(frame.drawing.to_svg())
        texts = [element.text for element in tree.iter(f"{NAMESPACE}text")]
        for state in ("waits", "runs", "preempted", "done", "left"):
            assert texts.count(state) == reading.count(state)
        squares = [
            r for r in tree.iter(f"{NAMESPACE}rect") if r.get("width") == "12" and r.get("height") == "14"
        ]
        assert len(squares) == sum(reading.num_blocks.values())
