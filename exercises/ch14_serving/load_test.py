"""Exercise 14.4: Write the load test. (write-test, about 30 minutes)

You are the grader again, this time of a whole engine. `play` serves a load: requests come while
others run, and some clients leave. `check_served` plays it and raises an AssertionError if the
engine has broken a law: what somebody says under load is what they say alone; who leaves gets no
more tokens; everybody ends; in the end no block is held.

Your check is run on the right engine, where it has to keep quiet, and on eight engines with one bug
each (they stand in minivllm/course/broken_servers.py), all of which it has to catch. A LoadRequest
has a name, prompt and max_tokens; it comes before step number `arrival`, counted from 0, and its
client leaves before step number `leaves`, or stays where that is None. Useful: engine.add(name,
prompt, max_tokens), engine.step(), engine.abort(name), engine.unfinished (names), engine.outputs
(name -> tokens), engine.num_held (blocks), and engine.wrong, sentences of the worker about what it
could not do. Everybody has one more token at most after each step.

When all is green, your own parts take the stand, every one that passes: python -m minivllm.course
trace 14

Check: python -m minivllm.course check 14.4     (or: python -m pytest exercises/ch14_serving/load_test.py)
Stuck: python -m minivllm.course hint 14.4
"""

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
    raise NotImplementedError("exercise 14.4: play")


def check_served(make_engine: Callable[[], ToyEngine], load: Sequence[LoadRequest]) -> None:
    """Raise an AssertionError if an engine breaks a law under this load. `make_engine()` gives a fresh one."""
    raise NotImplementedError("exercise 14.4: check_served")
