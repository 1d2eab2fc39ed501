"""Exercise 14.4: Write the load test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minivllm.course.toy_engine import ToyEngine
from minivllm.course.toy_load import LoadRequest


MAX_STEPS = 500


def play(engine: ToyEngine, load: Sequence[LoadRequest]) -> dict[str, list[int]]:
    """Serve a load to its end; returns what everybody has said.

    Before each step, the requests that arrive then are added, in the order of the load, and those whose client leaves
    then are aborted, once. AssertionError if somebody has not ended after MAX_STEPS steps.
    """
    for number in range(MAX_STEPS):
        for one in load:
            if one.arrival == number:
                engine.add(one.name, one.prompt, one.max_tokens)
            if one.leaves == number:
                engine.abort(one.name)
        if not engine.unfinished and all(one.arrival <= number for one in load):
            return engine.outputs
        engine.step()
    raise AssertionError(f"after {MAX_STEPS} steps {', '.join(engine.unfinished)} have not finished")


def check_served(make_engine: Callable[[], ToyEngine], load: Sequence[LoadRequest]) -> None:
    """Raise an AssertionError if an engine breaks a law under this load. `make_engine()` gives a fresh one."""
    engine = make_engine()
    said = play(engine, load)
    assert engine.wrong == [], engine.wrong[0]
    assert engine.num_held == 0, f"{engine.num_held} blocks are lost"
    for one in load:
        heard = said[one.name]
        alone = play(make_engine(), [LoadRequest(one.name, one.prompt, one.max_tokens)])[one.name]
        if one.leaves is None:
            assert heard == alone, f"{one.name} says something else than alone"
            continue
        assert heard == alone[: len(heard)], f"{one.name} begins with something else than alone"
        most = one.leaves - one.arrival  # a token in every step that it was there
        assert len(heard) <= most, f"{one.name} goes on though its client has left"
