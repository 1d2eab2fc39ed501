"""Grader of chapter 14: serving, and the capstone.

Oracles: Python's decoder of whole bytes, a reader of server-sent events written here, latencies counted by hand,
and a loop without a scheduler (what a request says alone). Nothing opens a socket.
"""

import json
from statistics import fmean

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivllm.core.scheduler import Scheduler
from minivllm.course.broken_servers import BROKEN
from minivllm.course.toy_engine import said_alone
from minivllm.course.toy_load import LoadRequest, idea_load, serve_load, starving_load

STREAM = [
    "from minivllm.course.toy_engine import ToyEngine",
    "from minivllm.course.toy_stream import ToyStream",
]
LOAD = ["from minivllm.course.toy_load import LoadRequest, LoggedEngine"]


# -- 14.1 --------------------------------------------------------------------------------------------------------------


def stream(impl):
    history = impl.history("TextStream")
    history.run("stream, seen = TextStream(), ''")
    return history


def append(history, data):
    history.run(f"new = stream.append({data!r}); seen += new")


@pytest.mark.exercise("14.1", "smoke")
def test_plain_letters_go_through(impl):
    history = stream(impl)
    append(history, b"paged")
    history.check("new == 'paged'", "prompt")
    history.check("stream.finish() == ''", "whole")


@pytest.mark.exercise("14.1", "examples")
@pytest.mark.parametrize("character", ["é", "€", "漢", "🦊"])
def test_a_character_byte_by_byte(impl, character):
    history = stream(impl)
    data = character.encode()
    append(history, b"a")
    for byte in data[:-1]:
        append(history, bytes([byte]))
        history.check("new == ''", "half")
    append(history, data[-1:])
    history.check(f"new == {character!r}", "prompt")
    append(history, b"")
    history.check("new == ''", "whole")
    print(f"{character}: {' | '.join(f'{byte:08b}' for byte in data)}")


@pytest.mark.exercise("14.1", "examples")
def test_what_is_complete_does_not_wait_for_what_is_not(impl):
    history = stream(impl)
    append(history, "ab 漢".encode()[:-1])
    history.check("new == 'ab '", "prompt")
    append(history, "漢".encode()[-1:] + b"cd")
    history.check("new == '漢cd'", "prompt")


@pytest.mark.exercise("14.1", "examples")
def test_an_answer_that_ends_in_the_middle(impl):
    history = stream(impl)
    append(history, "x🦊".encode()[:-2])
    history.check("new == 'x'", "half")
    history.check("stream.finish() == '\\ufffd'", "broken")
    history.check("stream.finish() == ''", "broken")


def cut(data, cuts):
    """`data` in pieces; a cut may come twice, so a piece may be empty."""
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


CUTS = st.lists(st.integers(0, 40), max_size=12)


@pytest.mark.exercise("14.1", "properties")
@settings(max_examples=80)
@given(st.text(alphabet="aé€漢🦊\n", max_size=10), CUTS)
@example("🦊", [1, 2, 3])
@example("é🦊€", [1, 3, 5, 8])
def test_any_text_cut_anywhere(impl, text, cuts):
    history, come = stream(impl), b""
    for piece in cut(text.encode(), cuts):
        append(history, piece)
        come += piece
        history.check("'\\ufffd' not in new", "half")
        history.check(f"seen == {come.decode('utf-8', errors='ignore')!r}", "prompt")
    history.check(f"seen + stream.finish() == {text!r}", "whole")


@pytest.mark.exercise("14.1", "properties")
@settings(max_examples=120)
@given(st.lists(st.sampled_from([0x41, 0x80, 0xA9, 0xC3, 0xE2, 0xF0, 0x9F, 0xFF]), max_size=10), CUTS)
@example([0xE2, 0x80], [1])
@example([0x80, 0x80, 0x80, 0x80], [1, 2, 3])
def test_any_bytes_cut_anywhere(impl, numbers, cuts):
    history, data = stream(impl), bytes(numbers)
    for piece in cut(data, cuts):
        append(history, piece)
    history.check(f"seen + stream.finish() == {data.decode('utf-8', errors='replace')!r}", "broken")


# -- 14.2 --------------------------------------------------------------------------------------------------------------


def served(impl, num_prompt=3, max_tokens=5, others=(), **fields):
    """A history with an engine, requests of `others`, and the stream of request a."""
    history = impl.history("DONE", "event", "EventStream", imports=STREAM)
    history.run("engine = ToyEngine(num_blocks=12, block_size=2, max_num_batched_tokens=8)")
    for name, count, most in others:
        start = 10 * (ord(name) - ord("a"))
        history.run(f"engine.add({name!r}, range({start}, {start + count}), max_tokens={most})")
    told = "".join(f", {name}={value!r}" for name, value in fields.items())
    history.run(f"answer = ToyStream(engine, 'a', range({num_prompt}), {max_tokens}{told})")
    history.run("stream = EventStream(answer, answer.abort)")
    history.run("chunks = iter(stream)")
    return history


def timeline(history):
    return lambda: history.value("engine").timeline()


def events_of(history, chunks):
    """What a client reads: the payload of each event, None for [DONE]. A reader of its own."""
    found = []
    for chunk in chunks:
        told = f"an event is {chunk!r}"
        if not isinstance(chunk, bytes):
            history.fail("frame", f"{told}, and should be bytes.")
        lines = chunk.decode().split("\n")
        if len(lines) != 3 or lines[1:] != ["", ""] or not lines[0].startswith("data: "):
            history.fail("frame", f"{told}, and not a line that begins with data: and an empty line.")
        content = lines[0].removeprefix("data: ")
        try:
            found.append(None if content == "[DONE]" else json.loads(content))
        except ValueError:
            history.fail("frame", f"{told}, and what stands behind data: is no JSON.")
    return found


def answer_of(num_prompt, max_tokens, is_spelled=True):
    """The text of request a, by a loop that knows no stream."""
    ends = (" ", "\n\n", " é\u2028")
    tokens = enumerate(said_alone(range(num_prompt), max_tokens))
    return [f"{token}{ends[i % 3]}" for i, token in tokens if is_spelled or i % 3 != 1]


def check_whole(history, num_prompt, max_tokens, is_spelled=True):
    history.run("chunks = list(chunks)")
    history.run("stream.close()")
    events = events_of(history, history.value("chunks"))
    history.check("chunks[-1:] == [b'data: [DONE]\\n\\n']", "done")
    history.check("chunks.count(b'data: [DONE]\\n\\n') == 1", "done")
    texts = [one["text"] for one in events if one and "text" in one]
    wanted = answer_of(num_prompt, max_tokens, is_spelled)
    if texts != wanted or len(events) != len(wanted) + 1:
        history.fail("content", f"The events are {events!r}, and their texts should be {wanted!r}.")
    history.check("answer.num_aborts == 0", "complete")
    history.check("engine.num_held == 0", "abort", timeline(history))


@pytest.mark.exercise("14.2", "smoke")
def test_an_event_is_framed(impl):
    history = impl.history("event")
    history.run("chunk = event({'text': 'hi'})")
    assert events_of(history, [history.value("chunk")]) == [{"text": "hi"}]


@pytest.mark.exercise("14.2", "smoke")
def test_an_answer_of_one_token(impl):
    check_whole(served(impl, max_tokens=1), 3, 1)


@pytest.mark.exercise("14.2", "examples")
def test_an_answer_with_line_ends_and_quotes(impl):
    history = impl.history("DONE", "event", "EventStream")
    history.run("stream = EventStream(['a \"b\"', 'c\\n\\ndata: [DONE]', 'd\\\\'], lambda: None)")
    history.run("chunks = list(stream)")
    events = events_of(history, history.value("chunks"))
    texts = [one and one.get("text") for one in events]
    if texts != ['a "b"', "c\n\ndata: [DONE]", "d\\", None]:
        history.fail("content", f"A client reads {texts!r}.", ["print(chunks)"])
    print(b"".join(history.value("chunks")).decode())


@pytest.mark.exercise("14.2", "examples")
def test_an_event_is_out_before_the_next_piece_is_made(impl):
    history = served(impl)
    for number in (1, 2, 3):
        history.run("chunk = next(chunks)")
        history.check(f"answer.num_taken == {number}", "prompt", timeline(history))
    history.run("chunks.close()")
    history.run("stream.close()")


@pytest.mark.exercise("14.2", "examples")
def test_a_client_that_never_reads(impl):
    history = served(impl)
    history.run("engine.step()")
    history.run("stream.close()")
    history.check("answer.num_aborts == 1", "abort", timeline(history))
    history.check("engine.num_held == 0", "abort", timeline(history))


@pytest.mark.exercise("14.2", "examples")
def test_the_engine_dies_in_the_middle(impl):
    history = served(impl, fails_after=2)
    history.run("chunks = list(chunks)")
    history.run("stream.close()")
    events = events_of(history, history.value("chunks"))
    if len(events) != 4 or not events[2] or "the engine has died" not in str(events[2].get("error")):
        finding = f"A client reads {events!r}: 2 texts, an error that says what has happened, and [DONE]."
        history.fail("error", finding, ["print(chunks)"])
    history.check("chunks[-1] == b'data: [DONE]\\n\\n'", "done")
    history.check("answer.num_aborts == 1", "error")
    history.check("engine.num_held == 0", "error", timeline(history))


@pytest.mark.exercise("14.2", "properties")
@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 7), st.booleans())
def test_a_stream_says_what_an_answer_says(impl, num_prompt, max_tokens, is_spelled):
    check_whole(
        served(impl, num_prompt, max_tokens, is_spelled=is_spelled), num_prompt, max_tokens, is_spelled
    )


@pytest.mark.exercise("14.2", "properties")
@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(2, 7), st.integers(0, 6), st.integers(1, 2))
def test_an_abort_at_any_event(impl, num_prompt, max_tokens, num_read, num_closes):
    others = [("b", 4, 4), ("c", 3, 6)]
    history = served(impl, num_prompt, max_tokens, others)
    for _ in range(min(num_read, max_tokens - 1)):
        history.run("chunk = next(chunks)")
    history.run("chunks.close()   # the client is gone")
    for _ in range(num_closes):
        history.run("stream.close()")
    history.check("answer.num_aborts == 1", "abort", timeline(history))
    history.run("tables = engine.manager.tables()")
    history.check("'a' not in tables", "abort", timeline(history))
    history.run("engine.run()")
    history.check("engine.num_held == 0", "abort", timeline(history))
    for name, count, most in others:
        start = 10 * (ord(name) - ord("a"))
        said = said_alone(range(start, start + count), most)
        history.check(f"engine.outputs[{name!r}] == {said}", "neighbours", timeline(history))


# -- 14.3 --------------------------------------------------------------------------------------------------------------


def near(found, wanted):
    return f"abs({found} - {wanted!r}) < 1e-9"


@pytest.mark.exercise("14.3", "smoke")
def test_one_token(impl):
    history = impl.history("latencies")
    history.run("found = latencies(2.0, [5.0])")
    history.check("found.ttft == 3.0", "ttft")
    history.check("found.e2e == 3.0", "e2e")
    history.check("found.tpot is None", "tpot")
    history.check("tuple(found.gaps) == ()", "gaps")


@pytest.mark.exercise("14.3", "examples")
def test_a_request_with_a_stall(impl):
    history = impl.history("latencies")
    history.run("found = latencies(1.0, [1.5, 1.75, 1.75, 3.5])")
    history.check("found.ttft == 0.5", "ttft")
    history.check("found.e2e == 2.5", "e2e")
    history.check(near("found.tpot", 2 / 3), "tpot")
    history.check("tuple(found.gaps) == (0.25, 0.0, 1.75)", "gaps")
    print("arrival 1.0, tokens at 1.5 1.75 1.75 3.5: TTFT 0.5, gaps 0.25 0 1.75, TPOT 0.667, in all 2.5 s")


@pytest.mark.exercise("14.3", "examples")
@pytest.mark.parametrize("percent, wanted", [(0, 10.0), (50, 25.0), (75, 32.5), (90, 37.0), (100, 40.0)])
def test_percentiles_of_four_values(impl, percent, wanted):
    history = impl.history("percentile")
    history.run("values = [40.0, 10.0, 30.0, 20.0]")
    history.check(near(f"percentile(values, {percent})", wanted), "percentile")
    history.check("values == [40.0, 10.0, 30.0, 20.0]", "order")
    print(f"P{percent} of 10, 20, 30, 40 is {wanted}")


GOOD = [
    (0.5, 0.1, 1),
    (0.2, 0.1, 1),
    (0.51, 0.1, 0),
    (0.5, 0.11, 0),
    (0.9, 0.9, 0),
    (0.5, None, 1),
    (0.6, None, 0),
]


@pytest.mark.exercise("14.3", "examples")
@pytest.mark.parametrize("ttft, tpot, is_good", GOOD)
def test_one_request_is_good_or_not(impl, ttft, tpot, is_good):
    history = impl.history("Latencies", "goodput")
    history.run(f"one = Latencies(ttft={ttft}, e2e=9.0, tpot={tpot}, gaps=())")
    history.check(f"goodput([one], 0.5, 0.1) == {is_good}", "goodput")


@pytest.mark.exercise("14.3", "examples")
def test_who_failed_counts(impl):
    history = impl.history("Latencies", "goodput")
    history.run("one = Latencies(ttft=0.1, e2e=0.1, tpot=None, gaps=())")
    history.check("goodput([one, None, None, one], 1.0, 1.0) == 0.5", "goodput")
    history.check("goodput([None], 1.0, 1.0) == 0", "goodput")


TICKS = st.lists(st.integers(0, 8), min_size=1, max_size=8)


@pytest.mark.exercise("14.3", "properties")
@settings(max_examples=40)
@given(st.integers(0, 50), TICKS)
def test_any_request(impl, arrival, distances):
    """In eighths of a second, which floats hold exactly."""
    times, now = [], arrival
    for distance in distances:
        now += distance
        times.append(now / 8)
    history = impl.history("latencies")
    history.run(f"found = latencies({arrival / 8}, {times})")
    first, *gaps = (distance / 8 for distance in distances)
    history.check(near("found.ttft", first), "ttft")
    history.check(near("found.e2e", sum(distances) / 8), "e2e")
    history.check(f"list(found.gaps) == {gaps}", "gaps")
    if gaps:
        history.check(near("found.tpot", fmean(gaps)), "tpot")
        history.check(f"abs(found.ttft + {len(gaps)} * found.tpot - found.e2e) < 1e-9", "e2e")


@pytest.mark.exercise("14.3", "properties")
@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 100), st.randoms())
def test_any_percentile(impl, values, percent, draw):
    mixed = list(values)
    draw.shuffle(mixed)
    history = impl.history("percentile")
    history.run(f"found = percentile({values}, {percent})")
    history.check(f"{min(values)} - 1e-9 <= found <= {max(values)} + 1e-9", "percentile")
    history.check(f"abs(percentile({mixed}, {percent}) - found) < 1e-9", "order")
    place, rest = divmod((len(values) - 1) * percent, 100)
    pair = [*sorted(values), max(values)][place : place + 2]
    history.check(near("found", (pair[0] * (100 - rest) + pair[1] * rest) / 100), "percentile")


# -- 14.4 --------------------------------------------------------------------------------------------------------------

BUSY = [  # a bug may show under one of these only
    [
        LoadRequest("a", range(5), 6),
        LoadRequest("b", range(10, 14), 6),
        LoadRequest("c", range(20, 26), 5, arrival=1),
        LoadRequest("d", range(30, 33), 4, arrival=2, leaves=3),
        LoadRequest("e", range(40, 42), 3, arrival=20),
    ],
    [
        LoadRequest("a", range(4), 9),
        LoadRequest("b", range(10, 21), 3, leaves=1),
        LoadRequest("c", range(20, 23), 4, arrival=1, leaves=4),
        LoadRequest("d", range(30, 33), 4, arrival=6),
    ],
]
SIZES = "num_blocks=9, block_size=2, max_num_seqs=3, max_num_batched_tokens=8"


def load_tester(impl, scheduler="Scheduler", module="minivllm.core.scheduler"):
    """A history with the learner's load test and a way to make engines."""
    history = impl.history("play", "check_served", imports=[*LOAD, f"from {module} import {scheduler}"])
    history.run(f"make_engine = lambda: LoggedEngine({scheduler}, {SIZES})")
    return history


def play(history, load):
    history.run(f"load = {load!r}")
    history.run("engine = make_engine()")
    history.run("outputs = play(engine, load)")


def check_play(history, load):
    """Did everybody come and leave at their steps? Who had finished need not be aborted."""
    calls, engine = history.value("engine.calls"), history.value("engine")
    wanted = [("add", one.name, one.arrival) for one in load]
    wanted += [("abort", one.name, one.leaves) for one in load if one.leaves is not None]
    late = [call for call in wanted if call[0] == "abort" and call not in calls and is_done(engine, call)]
    found, due = sorted(set(calls)), sorted(set(wanted) - set(late))
    if found != due:
        history.fail("plays", f"The engine was told {found}, and should be told {due}.", [], engine.timeline)
    history.check("engine.unfinished == []", "plays", engine.timeline)
    history.check("outputs == engine.outputs", "plays")
    history.check("engine.steps[-1].load > 0 or len(engine.steps) <= load[-1].arrival + 1", "plays")


def is_done(engine, call):
    """Had the request of an abort ended before?"""
    _, name, step = call
    return not any(name in (*s.num_tokens, *s.waiting, *s.running) for s in engine.steps[step:])


@pytest.mark.exercise("14.4", "smoke")
def test_one_request_is_served(impl):
    history = load_tester(impl)
    play(history, [LoadRequest("a", range(3), 2)])
    history.check(f"outputs == {{'a': {said_alone(range(3), 2)}}}", "plays")
    history.check("len(engine.steps) == 2", "plays", timeline(history))


@pytest.mark.exercise("14.4", "examples")
@pytest.mark.parametrize("load", BUSY)
def test_they_come_and_leave_at_their_steps(impl, load):
    history = load_tester(impl)
    play(history, load)
    check_play(history, load)
    print(f"{history.value('engine').timeline()}\n")


@pytest.mark.exercise("14.4", "examples")
def test_a_load_without_an_end(impl):
    history = load_tester(impl, "LosesThePreempted", "minivllm.course.broken_servers")
    history.run(f"load = {BUSY[0]!r}")
    history.refuses("play(make_engine(), load)", "ends")


def expect_quiet(history):
    if history.is_refused("check_served(make_engine, load)"):
        history.run("engine = make_engine()")
        history.run("play(engine, load)")
        finding = "Your check raised an AssertionError, and the engine is right."
        history.fail("no_false_alarm", finding, ["check_served(make_engine, load)"], timeline(history))


@pytest.mark.exercise("14.4", "examples")
@pytest.mark.parametrize("load", BUSY)
def test_it_keeps_quiet_on_the_right_engine(impl, load):
    history = load_tester(impl)
    history.run(f"load = {load!r}")
    expect_quiet(history)


@st.composite
def loads(draw):
    """Up to 4 requests; some leave, before, in the middle of or after their answer. Each fits alone."""
    jobs = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(0, 8), st.none() | st.integers(1, 9))
    drawn = sorted(draw(st.lists(jobs, min_size=1, max_size=4)), key=lambda job: job[2])
    return [
        LoadRequest(
            chr(ord("a") + i), range(10 * i, 10 * i + length), most, arrival, stays and arrival + stays
        )
        for i, (length, most, arrival, stays) in enumerate(drawn)
    ]


@pytest.mark.exercise("14.4", "properties")
@settings(max_examples=30)
@given(loads())
@example([LoadRequest("a", range(3), 4, leaves=1)])
@example([LoadRequest("a", range(3), 4), LoadRequest("b", range(20, 29), 4, leaves=1)])
def test_it_keeps_quiet_under_any_load(impl, load):
    history = load_tester(impl)
    play(history, load)
    check_play(history, load)
    expect_quiet(history)


@pytest.mark.exercise("14.4", "properties")
def test_it_catches_all_eight_bugs(impl):
    survivors = {}
    for broken in BROKEN:
        history = load_tester(impl, broken.__name__, "minivllm.course.broken_servers")
        history.run(f"loads = {BUSY!r}")
        if not any(history.is_refused(f"check_served(make_engine, loads[{i}])") for i in range(len(BUSY))):
            survivors[broken] = history
    if survivors:
        broken, history = next(iter(survivors.items()))
        told = "; ".join(f"{one.__name__} ({one.__doc__.rstrip('.')})" for one in survivors)
        finding = f"{len(BROKEN) - len(survivors)} of {len(BROKEN)} bugs caught. Not caught: {told}."
        line = "for load in loads: check_served(make_engine, load)  # should have raised"
        history.fail("catches", finding, [line])


# -- 14.5 --------------------------------------------------------------------------------------------------------------

SERVE = ["from minivllm.course.toy_load import LoadRequest, idea_load, serve_load, starving_load"]


def serve(impl, load):
    """A history in which the idea serves a load, written as an expression, and the laws that hold for any."""
    history = impl.history("Idea", imports=SERVE)
    history.run(f"load = {load}")
    history.run("engine, took = serve_load(Idea, load)")
    history.check("engine.wrong == []", "says")
    history.check("[one.name for one in load if one.name not in took] == []", "finish")
    for one in history.value("load"):
        said = said_alone(one.prompt, one.max_tokens)
        history.check(f"engine.outputs[{one.name!r}] == {said}", "says")
    history.check("engine.num_held == 0", "idle")
    history.check("max(step.load for step in engine.steps) <= 8", "limits")
    history.check("max(len(step.num_tokens) for step in engine.steps) <= 3", "limits")
    return history


@pytest.mark.exercise("14.5", "smoke")
def test_two_requests_are_served(impl):
    serve(impl, [LoadRequest("a", range(5), 3), LoadRequest("b", range(10, 12), 2, arrival=1)])


@pytest.mark.exercise("14.5", "examples")
def test_the_trace_is_served_faster(impl):
    history = serve(impl, "idea_load()")
    _, baseline = serve_load(Scheduler, idea_load())
    took = history.value("took")
    mean, of_baseline = fmean(took.values()), fmean(baseline.values())
    told = f"{mean:.1f} steps from arrival to end, first come first served {of_baseline:.1f}"
    print(
        f"mean {told}: {mean / of_baseline:.0%}; the longest {max(took.values())} and {max(baseline.values())}"
    )
    if mean > 0.8 * of_baseline:
        history.fail(
            "better",
            f"On average {told}: {mean / of_baseline:.0%}.",
            [f"assert sum(took.values()) / len(took) <= {0.8 * of_baseline}"],
        )


@pytest.mark.exercise("14.5", "examples")
def test_a_long_request_among_short_ones(impl):
    history = serve(impl, "starving_load()")
    _, baseline = serve_load(Scheduler, starving_load())
    print(f"the long request: {history.value('took')['long']} steps, first come {baseline['long']}")
    history.check("took['long'] <= 120", "starve")


JOBS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(0, 9)), min_size=1, max_size=6)


@pytest.mark.exercise("14.5", "properties")
@settings(max_examples=25)
@given(JOBS)
def test_any_load_is_served(impl, jobs):
    drawn = sorted(jobs, key=lambda job: job[2])
    load = [
        LoadRequest(f"r{i}", range(20 * i, 20 * i + length), most, arrival)
        for i, (length, most, arrival) in enumerate(drawn)
    ]
    serve(impl, load)
