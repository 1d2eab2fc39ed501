"""Grader of chapter 08: continuous batching.

A toy engine plays the loads: its worker has no model, and notices whoever reads a wrong slot. The oracles are a loop
without a scheduler (what a request says alone) and bookkeeping with two numbers a request (what a step computes).
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.course.toy_engine import said_alone

TOY = "from minivllm.course.toy_engine import ToyEngine"


def new_engine(impl, **fields):
    """A history with a toy engine that is run by the graded scheduler."""
    history = impl.history("Scheduler", imports=[TOY])
    given_fields = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    history.run(f"engine = ToyEngine(Scheduler, {given_fields})")
    return history


def picture(history):
    return lambda: history.value("engine").timeline()


def add(history, name, num_prompt, max_tokens, first=None):
    """A request with a prompt of its own, or one that begins at `first` and counts on."""
    first = 10 * (ord(name) - ord("a")) if first is None else first
    history.run(f"engine.add({name!r}, range({first}, {first + num_prompt}), max_tokens={max_tokens})")


def step(history, law=None, **expected):
    """One step, and what its record must say."""
    history.run("step = engine.step()")
    for field, value in expected.items():
        history.check(f"step.{field} == {value!r}", law, picture(history))


def show(history, what):
    print(f"{what}\n{history.value('engine').timeline()}\n")


def check_laws(history, budget, seats=None):
    """What must hold after every step, whatever the load."""
    draw = picture(history)
    history.check(f"step.load <= {budget}", "budget", draw)
    law = "counts" if "counts" in history.implementation.exercise.laws else "budget"
    history.check("[name for name, count in step.num_tokens.items() if count < 1] == []", law, draw)
    if seats is not None:
        history.check(f"len(step.running) <= {seats}", "seats", draw)
    history.check("engine.wrong == []", "says", draw)


def check_end(history, load):
    """Everybody has said the right thing, and no block is held."""
    history.check("engine.unfinished == []", "finish", picture(history))
    for name, (first, num_prompt, max_tokens, _) in load.items():
        said = said_alone(range(first, first + num_prompt), max_tokens)
        history.check(f"engine.outputs[{name!r}] == {said}", "says", picture(history))
    history.check("engine.num_held == 0", "idle", picture(history))


def play(history, load, check):
    """Play `load` to its end, with `check(known tokens before the step)` after each step.

    Returns:
        The number of the step that finished each request.
    """
    engine, finished = history.value("engine"), {}
    limit = sum(num_prompt + 2 * max_tokens for _, num_prompt, max_tokens, _ in load.values()) + 20
    while len(finished) < len(load):
        for name, (first, num_prompt, max_tokens, arrival) in load.items():
            idle = not engine.unfinished
            if name not in engine.requests and (arrival <= len(engine.steps) or idle):
                add(history, name, num_prompt, max_tokens, first)
        if len(engine.steps) >= limit:
            finding = f"After {limit} steps {', '.join(engine.unfinished)} have not finished."
            history.fail("finish", finding, ["assert engine.unfinished == []"], picture(history))
        known = {name: request.num_tokens for name, request in engine.requests.items()}
        history.run("step = engine.step()")
        check(known)
        for name in engine.requests.keys() - finished.keys() - set(engine.unfinished):
            finished[name] = len(engine.steps)
    check_end(history, load)
    return finished


@st.composite
def loads(draw, max_size=5):
    """name -> (first token of the prompt, its length, max_tokens, arrival), in order of arrival."""
    jobs = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(0, 6))
    drawn = sorted(draw(st.lists(jobs, min_size=1, max_size=max_size)), key=lambda job: job[2])
    own = 10 * draw(st.integers(0, 1))  # 0: every prompt is the beginning of a longer one
    return {chr(ord("a") + i): (own * i, *job) for i, job in enumerate(drawn)}


def longest(load):
    return max(num_prompt + max_tokens for _, num_prompt, max_tokens, _ in load.values())


# -- 8.1 ---------------------------------------------------------------------------------------------------------------

LOAD_1 = [("tokens_of_b_in_step_1", "engine.steps[0].num_tokens['b']", "budget")]
LOAD_1 += [("tokens_of_c_in_step_2", "engine.steps[1].num_tokens['c']", "budget")]
LOAD_1 += [
    ("step_that_finishes_a", "max(i for i, s in enumerate(engine.steps, 1) if 'a' in s.num_tokens)", "finish")
]
LOAD_1 += [("steps_for_all", "len(engine.steps)", "finish")]
RETURN = "[i for i, s in enumerate(engine.steps) if 'e' in s.num_tokens][1]"
LOAD_2 = [
    ("step_with_a_preemption", "[i for i, s in enumerate(engine.steps, 1) if s.preempted][0]", "preempt")
]
LOAD_2 += [
    ("tokens_of_d_when_e_returns", f"sum('d' in s.num_tokens for s in engine.steps[:{RETURN}])", "resume")
]
LOAD_2 += [("tokens_to_recompute", f"engine.steps[{RETURN}].num_tokens['e']", "resume")]


@pytest.mark.exercise("8.1", "smoke")
def test_every_prediction_is_a_whole_number(impl):
    for name in impl.exercise.names:
        assert isinstance(getattr(impl, name)(), int), f"{name}() should return a whole number"


@pytest.mark.exercise("8.1", "examples")
@pytest.mark.parametrize(
    "sizes, requests, questions",
    [
        ("max_num_batched_tokens=8", [("a", 5, 3), ("b", 9, 2), ("c", 2, 2)], LOAD_1),
        ("num_blocks=5, block_size=4, max_num_batched_tokens=16", [("d", 8, 6), ("e", 7, 6)], LOAD_2),
    ],
)
def test_the_loads_as_the_scheduler_plays_them(impl, sizes, requests, questions):
    history = impl.history(*impl.exercise.names, imports=[TOY])
    history.run(f"engine = ToyEngine({sizes})")
    for request in requests:
        add(history, *request)
    history.run("engine.run()")
    for name, truth, law in questions:
        history.check(f"{name}() == {truth}", law, picture(history))
    show(history, sizes)


# -- 8.2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.exercise("8.2", "smoke")
def test_a_request_comes_in(impl):
    history = new_engine(impl, max_num_batched_tokens=8)
    add(history, "a", 4, 2)
    step(history, "eager", admitted=("a",), num_tokens={"a": 4})
    step(history, "eager", admitted=(), num_tokens={"a": 1})
    check_end(history, {"a": (0, 4, 2, 0)})


@pytest.mark.exercise("8.2", "examples")
def test_they_come_in_until_the_budget_is_used_up(impl):
    history = new_engine(impl, max_num_batched_tokens=8)
    for name, num_prompt in [("a", 3), ("b", 5), ("c", 2)]:
        add(history, name, num_prompt, 3)
    history.run("step = engine.step()")
    check_laws(history, 8)
    history.check("step.num_tokens == {'a': 3, 'b': 5}", "eager", picture(history))
    step(history, "eager", num_tokens={"a": 1, "b": 1, "c": 2})
    show(history, "a budget of 8 tokens")


@pytest.mark.exercise("8.2", "examples")
def test_they_come_in_until_the_seats_are_taken(impl):
    history = new_engine(impl, max_num_seqs=2, max_num_batched_tokens=16)
    for name, max_tokens in [("a", 2), ("b", 4), ("c", 2)]:
        add(history, name, 3, max_tokens)
    for running in [("a", "b"), ("a", "b"), ("b", "c")]:
        history.run("step = engine.step()")
        check_laws(history, 16, seats=2)
        history.check(f"step.running == {running}", "eager", picture(history))
    show(history, "two seats: c takes the seat of a in the step after a has finished")


@pytest.mark.exercise("8.2", "examples")
def test_nobody_overtakes_who_does_not_fit(impl):
    history = new_engine(impl, num_blocks=7, block_size=2, max_num_batched_tokens=16)
    for name, num_prompt, max_tokens in [("a", 7, 2), ("b", 6, 1), ("c", 2, 1)]:
        add(history, name, num_prompt, max_tokens)
    step(history, "order", admitted=("a",), waiting=("b", "c"))
    step(history, "order", admitted=(), waiting=("b", "c"))
    step(history, "eager", admitted=("b", "c"))
    show(history, "6 blocks of 2: b needs 3 and 2 are free, c needs 1 and waits behind b")


@pytest.mark.exercise("8.2", "examples")
def test_all_its_tokens_must_fit_and_not_only_the_chunk(impl):
    history = new_engine(impl, num_blocks=6, block_size=2, max_num_batched_tokens=6)
    add(history, "a", 5, 2)
    add(history, "b", 8, 1)
    step(history, "fit", admitted=("a",), num_tokens={"a": 5})
    show(
        history, "5 blocks of 2, 3 of them held by a: a chunk of 1 token of b would fit, its 8 tokens do not"
    )
    step(history, "fit", admitted=(), num_tokens={"a": 1})
    step(history, "eager", admitted=("b",), num_tokens={"b": 6})


@pytest.mark.exercise("8.2", "examples")
def test_a_preempted_one_is_longer_than_its_prompt(impl):
    history = new_engine(impl, num_blocks=6, block_size=2, max_num_batched_tokens=16)
    add(history, "a", 5, 6)
    add(history, "b", 2, 4)
    for _ in range(2):
        history.run("step = engine.step()")
    step(history, "fit", preempted=("b",), waiting=("b",))
    step(history, "fit", admitted=(), num_free=1)
    show(history, "5 blocks of 2: b has a prompt of 2 and said 2, so it needs 2 blocks, and 1 is free")


@pytest.mark.exercise("8.2", "examples")
def test_just_enough_is_enough(impl):
    history = new_engine(impl, num_blocks=5, block_size=2, max_num_batched_tokens=16)
    add(history, "a", 4, 1)
    add(history, "b", 4, 1)
    step(history, "eager", admitted=("a", "b"))


def after_a_twin(impl, **fields):
    """`a` has computed a prompt of 6 tokens and still runs; b, with the same prompt and one token more, comes."""
    history = new_engine(impl, block_size=2, caching=True, **fields)
    add(history, "a", 6, 4, first=0)
    history.run("step = engine.step()")
    add(history, "b", 7, 2, first=0)
    return history


@pytest.mark.exercise("8.2", "examples")
def test_what_is_found_in_the_cache_is_not_computed_again(impl):
    history = after_a_twin(impl, max_num_batched_tokens=8)
    history.run("step = engine.step()")
    history.check("step.num_tokens == {'a': 1, 'b': 1}", "hit", picture(history))
    history.check("step.num_computed == {'a': 6, 'b': 6}", "hit", picture(history))
    show(history, "6 of the 7 tokens of b are in the blocks of a")


@pytest.mark.exercise("8.2", "examples")
def test_shared_blocks_are_not_needed_twice(impl):
    history = after_a_twin(impl, num_blocks=6, max_num_batched_tokens=8)
    step(history, "hit", admitted=("b",))
    show(history, "5 blocks of 2: b has 3 of its 4 blocks in common with a")


@pytest.mark.exercise("8.2", "examples")
def test_a_hit_is_no_cut(impl):
    history = after_a_twin(impl, max_num_batched_tokens=64, enable_chunked_prefill=False)
    step(history, "hit", admitted=("b",))


@pytest.mark.exercise("8.2", "examples")
def test_who_needs_a_block_of_this_step_is_passed_over(impl):
    history = new_engine(impl, block_size=2, caching=True, max_num_batched_tokens=16)
    add(history, "a", 6, 3, first=0)
    add(history, "b", 7, 2, first=0)
    add(history, "c", 3, 2, first=50)
    step(history, "once", admitted=("a", "c"), waiting=("b",))
    step(history, "once", num_tokens={"a": 1, "c": 1, "b": 1})
    show(history, "b waits a step for the blocks that a computes; c need not")


@pytest.mark.exercise("8.2", "examples")
def test_without_chunks_a_prompt_comes_whole_or_not_at_all(impl):
    sizes = {"max_num_batched_tokens": 10, "max_model_len": 10, "enable_chunked_prefill": False}
    history = new_engine(impl, **sizes)
    add(history, "a", 6, 3)
    add(history, "b", 5, 2)
    step(history, "whole", admitted=("a",), num_tokens={"a": 6})
    step(history, "whole", admitted=("b",), num_tokens={"a": 1, "b": 5})
    show(history, "a budget of 10, whole prompts only: 4 tokens of the first step are left")


@pytest.mark.exercise("8.2", "examples")
def test_a_static_batch_is_closed_when_the_next_one_does_not_fit(impl):
    sizes = {"num_blocks": 7, "block_size": 2, "max_num_batched_tokens": 16}
    history = new_engine(impl, **sizes, enable_static_batching=True)
    for name, num_prompt, max_tokens in [("a", 4, 4), ("b", 4, 1), ("c", 6, 1)]:
        add(history, name, num_prompt, max_tokens)
    step(history, "eager", admitted=("a", "b"))
    step(history, "short", admitted=())
    step(history, "short", admitted=())
    show(history, "static batching: c did not fit, and waits until both have left, though b has gone")


def check_eager(history, budget, seats, block_size):
    """Why does the head of the queue wait? There must be a reason."""
    now = history.value("step")
    if not now.waiting or now.preempted or now.load == budget or len(now.running) >= seats:
        return
    head = history.value(f"engine.requests[{now.waiting[0]!r}]")
    if -(-head.num_tokens // block_size) > now.num_free:
        return
    finding = (
        f"{head.request_id} waits, with {budget - now.load} tokens of the budget left, {seats - len(now.running)} "
        f"seats and {now.num_free} blocks free: its {head.num_tokens} tokens would fit."
    )
    history.fail("eager", finding, [f"assert {head.request_id!r} in step.admitted"], picture(history))


sizes = st.tuples(st.integers(1, 3), st.integers(0, 5), st.integers(1, 4), st.integers(0, 6), st.booleans())


@pytest.mark.exercise("8.2", "properties")
@settings(max_examples=30)
@given(loads(), sizes)
def test_any_load_comes_in(impl, load, drawn):
    block_size, more_blocks, seats, more_budget, caching = drawn
    budget = seats + more_budget
    history = new_engine(
        impl,
        num_blocks=1 - (-longest(load) // block_size) + more_blocks,
        block_size=block_size,
        caching=caching,
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
    )

    def check(known):
        check_laws(history, budget, seats)
        if caching:  # who waits for a block lets others pass
            return
        history.check(
            "[*step.running, *step.waiting] == sorted([*step.running, *step.waiting])",
            "order",
            picture(history),
        )
        check_eager(history, budget, seats, block_size)

    play(history, load, check)


# -- 8.3 ---------------------------------------------------------------------------------------------------------------


class TwoNumbers:
    """Every request as two numbers, tokens known and computed; enough blocks for all, first come first served."""

    def __init__(self, budget, seats, threshold=0):
        self.budget, self.seats, self.threshold = budget, seats, threshold
        self.known, self.computed, self.end = {}, {}, {}

    def add(self, name, num_prompt, max_tokens):
        self.known[name], self.computed[name], self.end[name] = num_prompt, 0, num_prompt + max_tokens

    def step(self):
        """Name -> tokens of the next step. The first `seats` in order of arrival are those that run."""
        given_tokens, left, company = {}, self.budget, len(self.known) > 1
        for name in list(self.known)[: self.seats]:
            due = self.known[name] - self.computed[name]
            if self.threshold and company:
                due = min(due, self.threshold)
            if left:
                given_tokens[name] = min(due, left)
                left -= given_tokens[name]
        for name, count in given_tokens.items():
            self.computed[name] += count
            self.known[name] += self.computed[name] == self.known[name]
            if self.known[name] == self.end[name]:
                del self.known[name]
        return given_tokens


@pytest.mark.exercise("8.3", "smoke")
def test_a_long_prompt_takes_several_steps(impl):
    history = new_engine(impl, max_num_batched_tokens=8)
    add(history, "a", 20, 2)
    for expected in (8, 8, 4, 1):
        history.run("step = engine.step()")
        history.check("step.load <= 8", "budget", picture(history))
        history.check(f"step.num_tokens == {{'a': {expected}}}", "owed", picture(history))
        history.check("engine.wrong == []", "told", picture(history))
    check_end(history, {"a": (0, 20, 2, 0)})


@pytest.mark.exercise("8.3", "examples")
@pytest.mark.parametrize(
    "line, arguments, expected, law",
    [
        ("pass", "request, 20", 10, "owed"),
        ("pass", "request, 4", 4, "owed"),
        ("pass", "request, 20, 7", 3, "owed"),
        ("request.num_computed_tokens = 6", "request, 20", 4, "owed"),
        ("request.num_computed_tokens = 6", "request, 20, 0", 10, "owed"),
        ("request.append_output_token(5)", "request, 20, 9", 2, "owed"),
        ("request.spec_token_ids = [5, 6, 7]", "request, 20, 9", 4, "owed"),
        ("request.spec_token_ids = [5] * 7", "request, 20, 10", 6, "context"),
    ],
)
def test_worked_numbers(impl, line, arguments, expected, law):
    history = new_engine(impl, max_model_len=16)
    add(history, "a", 10, 2)
    history.run("request = engine.requests['a']")
    history.run(line)
    history.check(f"engine.scheduler._num_tokens_to_schedule({arguments}) == {expected}", law)
    print(f"a prompt of 10, max_model_len 16; {line}: ({arguments}) gives {expected}")


@pytest.mark.exercise("8.3", "examples")
def test_decoding_requests_come_first_and_a_prompt_fills_the_rest(impl):
    history = new_engine(impl, max_num_batched_tokens=6)
    add(history, "a", 2, 5)
    add(history, "b", 3, 4)
    step(history, "first", num_tokens={"a": 2, "b": 3})
    add(history, "c", 11, 2)
    for expected in (4, 4, 3):
        step(history, "first", num_tokens={"a": 1, "b": 1, "c": expected})
    show(history, "a budget of 6: the prompt of c takes what a and b leave")


@pytest.mark.exercise("8.3", "examples")
def test_the_worker_learns_of_new_blocks(impl):
    history = new_engine(impl, block_size=2, max_num_batched_tokens=4)
    add(history, "a", 7, 3)
    for _ in range(4):
        history.run("step = engine.step()")
        history.check("engine.wrong == []", "told", picture(history))


@pytest.mark.exercise("8.3", "examples")
def test_a_threshold_keeps_room_for_others(impl):
    history = new_engine(impl, max_num_batched_tokens=10, long_prefill_token_threshold=4)
    add(history, "a", 11, 2)
    step(history, "threshold", num_tokens={"a": 10})
    add(history, "b", 9, 2)
    step(history, "threshold", num_tokens={"a": 1, "b": 4})
    step(history, "threshold", num_tokens={"a": 1, "b": 4})
    step(history, "threshold", num_tokens={"b": 1})
    show(history, "a threshold of 4: a was alone in the first step")


@pytest.mark.exercise("8.3", "examples")
def test_who_waits_is_company(impl):
    history = new_engine(impl, max_num_seqs=1, max_num_batched_tokens=10, long_prefill_token_threshold=4)
    add(history, "a", 11, 1)
    add(history, "b", 2, 1)
    step(history, "threshold", num_tokens={"a": 4})


@pytest.mark.exercise("8.3", "examples")
def test_without_chunks_there_is_no_threshold(impl):
    sizes = {"max_num_batched_tokens": 20, "max_model_len": 20, "enable_chunked_prefill": False}
    history = new_engine(impl, **sizes, long_prefill_token_threshold=4)
    add(history, "a", 9, 2)
    add(history, "b", 8, 2)
    step(history, "threshold", num_tokens={"a": 9, "b": 8})


@pytest.mark.exercise("8.3", "examples")
def test_who_owes_nothing_is_passed_over(impl):
    history = new_engine(impl, max_num_batched_tokens=6)
    add(history, "a", 2, 3)
    add(history, "b", 6, 3)
    history.run("step = engine.schedule()")
    history.run("step = engine.schedule()   # the first step is still under way: no token of a is known yet")
    check_laws(history, 6)
    history.check("step.num_tokens == {'b': 2}", "first", picture(history))


@pytest.mark.exercise("8.3", "examples")
def test_it_stops_where_no_block_is_to_be_had(impl):
    history = new_engine(impl, num_blocks=5, block_size=2, max_num_batched_tokens=16)
    add(history, "a", 3, 3)
    add(history, "b", 4, 2)
    history.run("step = engine.step()")
    history.run("step = engine.step()")
    history.check("(step.num_tokens, step.preempted) == ({'a': 1}, ('b',))", "first", picture(history))
    show(history, "4 blocks of 2: b has to leave, and computes nothing in that step")


@pytest.mark.exercise("8.3", "properties")
@settings(max_examples=30)
@given(loads(), st.integers(1, 4), st.integers(0, 6), st.sampled_from([0, 0, 1, 3]))
def test_any_load_is_cut_as_it_should_be(impl, load, seats, more_budget, threshold):
    budget = seats + more_budget
    model = TwoNumbers(budget, seats, threshold)
    history = new_engine(
        impl,
        num_blocks=64,
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
        long_prefill_token_threshold=threshold,
    )

    def check(known):
        for name in known.keys() - model.end.keys():
            model.add(name, *load[name][1:3])
        model.known = {name: model.known[name] for name in sorted(model.known)}
        check_laws(history, budget)
        history.check(f"step.num_tokens == {model.step()}", "first", picture(history))

    play(history, load, check)


@pytest.mark.exercise("8.3", "properties")
@settings(max_examples=25)
@given(loads(), sizes)
def test_nobody_starves(impl, load, drawn):
    block_size, more_blocks, seats, more_budget, _ = drawn
    budget = seats + more_budget
    num_blocks = 1 - (-longest(load) // block_size) + more_blocks
    fields = {"max_num_seqs": seats, "max_num_batched_tokens": budget}
    history = new_engine(impl, num_blocks=num_blocks, block_size=block_size, **fields)
    finished = play(history, load, lambda known: check_laws(history, budget))
    ahead = 0  # the step that finished all who came before
    for name, (_, num_prompt, max_tokens, arrival) in load.items():
        alone = -(-num_prompt // budget) + max_tokens - 1
        latest = max(arrival, ahead) + alone
        if finished[name] > latest:
            finding = f"{name} finishes in step {finished[name]}, and should by step {latest}."
            history.fail("bound", finding, [], picture(history))
        ahead = max(ahead, finished[name])


# -- 8.4 ---------------------------------------------------------------------------------------------------------------


def short_of_blocks(impl, a=4, b=3, **fields):
    """4 blocks of 2, all held after the first step. Who has a prompt of 4 tokens needs another one next."""
    history = new_engine(impl, **{"num_blocks": 5, "block_size": 2, "max_num_batched_tokens": 16, **fields})
    add(history, "a", a, 3)
    add(history, "b", b, 5)
    history.run("step = engine.step()")
    return history


@pytest.mark.exercise("8.4", "smoke")
def test_the_last_one_makes_way(impl):
    history = short_of_blocks(impl)
    history.run("step = engine.step()")
    history.check("step.preempted[:1] != ('a',)", "victim", picture(history))
    history.check("'b' not in engine.manager.tables()", "blocks", picture(history))
    history.check("step.num_tokens == {'a': 1}", "goes_on", picture(history))
    history.check("step.preempted == ('b',)", "told", picture(history))


@pytest.mark.exercise("8.4", "smoke")
def test_nobody_has_to_go_while_there_are_blocks(impl):
    history = short_of_blocks(impl, num_blocks=12)
    step(history, "victim", preempted=(), num_tokens={"a": 1, "b": 1})


@pytest.mark.exercise("8.4", "examples")
def test_what_becomes_of_the_victim(impl):
    history = short_of_blocks(impl)
    history.run("b = engine.requests['b']")
    history.run("b.spec_token_ids = [7]   # a draft that was to be verified")
    history.run("step = engine.schedule()")
    draw = picture(history)
    history.check("step.preempted == ('b',)", "told", draw)
    history.check("step.waiting == ('b',)", "back", draw)
    history.check("[name for name in engine.manager.tables() if name == 'b'] == []", "blocks", draw)
    history.check("b.num_computed_tokens == 0", "blocks", draw)
    history.check("len(b.output_token_ids) == 1", "blocks", draw)
    history.check("b.status.name == 'PREEMPTED'", "record", draw)
    history.check("b.spec_token_ids == []", "record", draw)
    history.check("(b.num_preemptions, engine.scheduler.num_preemptions) == (1, 1)", "record", draw)
    show(history, "4 blocks of 2: a needs a third, b gives up two")


@pytest.mark.exercise("8.4", "examples")
def test_it_goes_on_where_it_was(impl):
    history = short_of_blocks(impl)
    step(history, "victim", preempted=("b",))
    step(history, "finish", num_tokens={"a": 1})
    step(history, "blocks", num_tokens={"b": 4})
    history.run("engine.run()")
    history.check("engine.wrong == []", "told", picture(history))
    show(history, "b computes its prompt of 3 and its first token again")
    check_end(history, {"a": (0, 4, 3, 0), "b": (10, 3, 5, 0)})


@pytest.mark.exercise("8.4", "examples")
def test_who_is_last_preempts_itself(impl):
    history = short_of_blocks(impl, a=3, b=4)
    history.run("step = engine.step()")
    history.check("step.preempted == ('b',)", "victim", picture(history))
    history.check("step.num_tokens == {'a': 1}", "itself", picture(history))
    show(history, "4 blocks of 2: b needs a third, and is the last")


@pytest.mark.exercise("8.4", "examples")
def test_one_after_the_other(impl):
    history = new_engine(
        impl, num_blocks=5, block_size=2, max_num_batched_tokens=8, long_prefill_token_threshold=4
    )
    for name, num_prompt, max_tokens in [("a", 8, 1), ("b", 1, 4), ("c", 1, 4)]:
        add(history, name, num_prompt, max_tokens)
    step(history, "victim", preempted=(), num_tokens={"a": 4, "b": 1, "c": 1})
    history.run("step = engine.step()")
    history.check("step.preempted[:1] == ('c',)", "victim", picture(history))
    history.check("step.num_tokens == {'a': 4}", "goes_on", picture(history))
    history.check("step.preempted == ('c', 'b')", "victim", picture(history))
    history.check("step.waiting == ('b', 'c')", "back", picture(history))
    show(history, "4 blocks of 2: the second half of a needs two blocks, c and b hold one each")


@pytest.mark.exercise("8.4", "examples")
def test_it_waits_before_all_that_came_later(impl):
    history = new_engine(impl, num_blocks=5, block_size=2, max_num_batched_tokens=16, max_num_seqs=2)
    for name, num_prompt, max_tokens in [("a", 4, 3), ("b", 3, 5), ("c", 2, 1)]:
        add(history, name, num_prompt, max_tokens)
    step(history, "victim", preempted=())
    step(history, "back", preempted=("b",), waiting=("b", "c"))
    show(history, "two seats: c has been waiting for one, and b came before c")


@pytest.mark.exercise("8.4", "examples")
def test_the_order_is_the_policys(impl):
    history = short_of_blocks(impl, max_num_seqs=2, policy="shortest-first")
    add(history, "c", 2, 2)
    history.run("step = engine.step()")
    history.check("step.preempted == ('b',)", "victim", picture(history))
    history.check("step.admitted == ()", "nobody_in", picture(history))
    history.check("step.waiting == ('c', 'b')", "back", picture(history))
    show(history, "shortest first: c has less work than b, and comes in when a step has blocks to spare")


@pytest.mark.exercise("8.4", "examples")
def test_blocks_in_use_are_not_taken(impl):
    history = new_engine(
        impl, num_blocks=5, block_size=2, max_num_batched_tokens=6, long_prefill_token_threshold=4
    )
    add(history, "a", 8, 1)
    add(history, "b", 2, 3)
    history.run("step = engine.schedule()")
    history.run("step = engine.schedule()   # the first step has not returned")
    history.check("step.preempted == ()", "in_flight", picture(history))
    history.check("step.num_tokens == {}", "in_flight", picture(history))
    history.run("engine.take_in()")
    history.run("engine.take_in()")
    step(history, "victim", preempted=("b",), num_tokens={"a": 4})


@pytest.mark.exercise("8.4", "properties")
@settings(max_examples=30)
@given(loads(), sizes)
def test_any_load_in_too_few_blocks(impl, load, drawn):
    block_size, more_blocks, seats, more_budget, caching = drawn
    budget = seats + more_budget
    num_blocks = 1 - (-longest(load) // block_size) + more_blocks // 2
    history = new_engine(
        impl,
        num_blocks=num_blocks,
        block_size=block_size,
        caching=caching,
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
    )

    def check(known):
        draw = picture(history)
        history.check("[name for name in step.preempted if name in step.num_tokens] == []", "itself", draw)
        if history.value("bool(step.preempted)"):
            history.check("step.admitted == ()", "nobody_in", draw)
            history.check("max(step.running) < min(step.preempted)", "victim", draw)
            history.check("[n for n in step.preempted if n not in step.waiting] == []", "back", draw)
        history.check("list(step.waiting) == sorted(step.waiting)", "back", draw)
        history.check("engine.wrong == []", "says", draw)

    play(history, load, check)


# -- 8.5 ---------------------------------------------------------------------------------------------------------------


def check_resume(history, budget, known):
    """Who was admitted computes all it owes, or what the budget has left."""
    now = history.value("step")
    left = budget
    for name, count in now.num_tokens.items():
        if name in now.admitted:
            due = min(known[name] - now.num_computed[name], left)
            history.check(f"step.num_tokens[{name!r}] == {due}", "resume", picture(history))
        left -= count


@pytest.mark.exercise("8.5", "smoke")
def test_two_requests_without_a_preemption(impl):
    history = new_engine(impl, caching=True, max_num_batched_tokens=8)
    load = {"a": (0, 5, 3, 0), "b": (10, 4, 2, 0)}
    play(history, load, lambda known: check_laws(history, 8))


@pytest.mark.exercise("8.5", "examples")
def test_a_resume_without_a_hit(impl):
    history = new_engine(impl, num_blocks=5, block_size=2, max_num_batched_tokens=16)
    play(history, {"a": (0, 4, 3, 0), "b": (10, 3, 5, 0)}, lambda known: check_laws(history, 16))
    show(history, "no prefix caching: b computes its prompt of 3 and its first token again")


@pytest.mark.exercise("8.5", "examples")
def test_a_resume_whose_hit_reaches_beyond_the_prompt(impl):
    history = new_engine(impl, num_blocks=5, block_size=4, caching=True, max_num_batched_tokens=16)
    load = {"a": (0, 5, 6, 0), "b": (10, 2, 6, 0)}

    def check(known):
        check_laws(history, 16)
        check_resume(history, 16, known)

    play(history, load, check)
    history.check("engine.steps[6].num_computed == {'b': 4}", "resume", picture(history))
    show(history, "b has a prompt of 2 and said 4 tokens; its first block, of 4 tokens, is still there")


@pytest.mark.exercise("8.5", "properties")
@settings(max_examples=40)
@given(loads(max_size=4), sizes)
def test_any_load_with_resumes(impl, load, drawn):
    block_size, more_blocks, seats, more_budget, caching = drawn
    budget = seats + more_budget
    num_blocks = 1 - (-longest(load) // block_size) + more_blocks // 2
    fields = {"caching": caching, "max_num_seqs": seats, "max_num_batched_tokens": budget}
    history = new_engine(impl, num_blocks=num_blocks, block_size=block_size, **fields)

    def check(known):
        check_laws(history, budget)
        check_resume(history, budget, known)

    play(history, load, check)
