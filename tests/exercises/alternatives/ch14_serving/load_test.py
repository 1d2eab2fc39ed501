"""Exercise 14.4, otherwise: a diary of what happens when, and the toy model itself as the oracle."""

from collections import defaultdict

from minivllm.course.toy_engine import said_alone

MAX_STEPS = 400


def play(engine, load):
    diary = defaultdict(list)
    for one in load:
        diary[one.arrival].append((engine.add, one.name, one.prompt, one.max_tokens))
    for one in load:
        if one.leaves is not None:
            diary[one.leaves].append((engine.abort, one.name))
    step, last = 0, max(one.arrival for one in load)
    while step <= last or engine.unfinished:
        assert step < MAX_STEPS, f"still there: {engine.unfinished}"
        for do, *arguments in diary.pop(step, []):
            do(*arguments)
        if step > last and not engine.unfinished:
            break
        engine.step()
        step += 1
    return engine.outputs


def check_served(make_engine, load):
    engine = make_engine()
    said = play(engine, load)
    assert not engine.wrong
    assert not engine.num_held
    for one in load:
        wanted, got = said_alone(one.prompt, one.max_tokens), said[one.name]
        if one.leaves is None:
            assert got == wanted
        else:
            assert len(got) <= one.leaves - one.arrival
            assert all(a == b for a, b in zip(got, wanted, strict=False))
