"""Loads, streams and broken servers of chapter 14: that they are what they say they are."""

import pytest

from minivllm.core.scheduler import Scheduler
from minivllm.course.broken_servers import BROKEN
from minivllm.course.toy_engine import ToyEngine, said_alone
from minivllm.course.toy_load import LoggedEngine, idea_load, serve_load, starving_load
from minivllm.course.toy_stream import ToyStream


def test_a_load_is_the_same_every_time():
    assert idea_load() == idea_load() and len(idea_load()) == 40
    assert [one.arrival for one in starving_load()] == sorted(one.arrival for one in starving_load())


def test_everybody_in_a_load_is_served():
    engine, took = serve_load(Scheduler, idea_load())
    assert set(took) == {one.name for one in idea_load()} and min(took.values()) >= 2
    assert engine.wrong == [] and engine.num_held == 0


def test_a_logged_engine_writes_down_who_comes_and_leaves():
    engine = LoggedEngine()
    engine.add("a", range(3), 4)
    engine.step()
    engine.abort("a")
    assert engine.calls == [("add", "a", 0), ("abort", "a", 1)] and engine.num_held == 0


def test_a_stream_steps_its_engine_only_as_far_as_it_is_asked():
    engine = ToyEngine()
    stream = ToyStream(engine, "a", range(3), 4)
    first = next(stream)
    assert len(engine.steps) == 1 and first.strip() == str(said_alone(range(3), 1)[0])
    assert len(list(stream)) == 3 and engine.num_held == 0


def test_a_stream_dies_when_it_is_told_to():
    stream = ToyStream(ToyEngine(), "a", range(3), 4, fails_after=1)
    next(stream)
    with pytest.raises(RuntimeError):
        next(stream)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_server_serves_a_single_request_well(broken):
    """The bug shows under load only, or the exercise would be too easy."""
    engine = ToyEngine(broken)
    engine.add("a", range(5), 4)
    engine.run()
    assert engine.outputs["a"] == said_alone(range(5), 4) and engine.num_held == 0
