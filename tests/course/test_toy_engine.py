"""The toy engine: correct schedules say the right thing, and the worker notices every kind of wrong step."""

from inspect import isfunction
from pathlib import Path

import pytest

from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import NewRequestData, SchedulerOutput
from minivllm.course.catalogue import find_root
from minivllm.course.toy_engine import ToyEngine, ToyWorker, next_token, said_alone
from minivllm.parts import combine, load_from_file
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams


def test_the_next_token_depends_on_all_tokens_and_their_order():
    assert len({next_token(t) for t in ([1, 2, 3], [1, 3, 2], [2, 3], [1, 2, 3, 3])}) == 4
    assert said_alone([1, 2], 2) == [next_token([1, 2]), next_token([1, 2, next_token([1, 2])])]


def test_a_preemption_changes_no_answer_and_shows_in_the_timeline():
    engine = ToyEngine(num_blocks=5, block_size=4, max_num_batched_tokens=16)
    engine.add("d", range(8), 6)
    engine.add("e", range(20, 27), 6)
    assert engine.run() == 11
    assert engine.outputs == {"d": said_alone(range(8), 6), "e": said_alone(range(20, 27), 6)}
    assert engine.wrong == [] and engine.unfinished == [] and engine.num_held == 0
    assert engine.timeline().splitlines()[2].split() == ["e", "7", "x", *"....", "8", *"1111"]


def new(name, num_tokens, block_ids):
    request = Request(name, list(range(num_tokens)), SamplingParams())
    return NewRequestData(request, request.all_token_ids, block_ids)


def first_step(*requests):
    counts = {one.request.request_id: len(one.token_ids) for one in requests}
    return SchedulerOutput(counts, dict.fromkeys(counts, 0), requests)


@pytest.mark.parametrize(
    "step, says",
    [
        (SchedulerOutput({"x": 1}, {"x": 0}), "the worker does not know it"),
        (SchedulerOutput({"a": 0}, {"a": 3}), "a is to compute 0 tokens from position 3"),
        (SchedulerOutput({"a": 2}, {"a": 3}), "and has 4 tokens"),
        (SchedulerOutput({"a": 1}, {"a": 3}, block_updates={"a": [(1, 1)]}), "a reads position 1"),
        (first_step(new("b", 5, [3])), "its blocks end at 2"),
        (first_step(new("a", 3, [1, 2])), "a begins again, and the worker thinks that it runs"),
    ],
)
def test_the_worker_notices(step, says):
    worker = ToyWorker(block_size=2)
    assert worker.execute(first_step(new("a", 3, [1, 2]))) == {"a": [next_token(range(3))]}
    worker.execute(step)
    assert says in worker.wrong[0]


def test_two_requests_in_one_block_read_each_others_tokens():
    worker = ToyWorker(block_size=2)
    other = NewRequestData(Request("b", [8, 9], SamplingParams()), [8, 9], [1])
    worker.execute(first_step(new("a", 2, [1]), other))
    assert worker.wrong == ["a reads position 0, and its own token is not there"]


def test_a_scheduler_put_together_from_three_exercises_serves():
    folder = find_root(Path(__file__)) / "tests/exercises/alternatives/ch08_continuous_batching"
    names = ("admission", "chunked_prefill", "preemption")
    theirs = combine("scheduler", [load_from_file(folder / f"{name}.py", "Scheduler") for name in names])
    assert {name for name, member in vars(theirs).items() if isfunction(member)} == {
        "_schedule_waiting",
        "_admit",
        "_schedule_running",
        "_num_tokens_to_schedule",
        "_allocate_or_preempt",
        "_preempt",
    }
    timelines = []
    for scheduler_class in (theirs, Scheduler):
        engine = ToyEngine(scheduler_class, num_blocks=10, block_size=4, max_num_batched_tokens=16)
        for number, (num_prompt, max_tokens) in enumerate([(9, 9), (6, 8), (8, 7), (30, 2), (1, 5)]):
            engine.add(f"r{number}", range(100 * number, 100 * number + num_prompt), max_tokens)
        engine.run()
        assert engine.wrong == [] and engine.unfinished == [] and engine.num_held == 0
        timelines.append(engine.timeline())
    assert timelines[0] == timelines[1] and "x" in timelines[0]
