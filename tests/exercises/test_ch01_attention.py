"""Grader of chapter 01: attention and naive decoding.

The oracles: attention and rotation computed with Python's own numbers, one product at a time; the engine, which shares
no code with them; and counts of what is seen and read, made by walking through it.
"""

import cmath
import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm import ops
from minivllm.attention.naive import dense_causal_attention
from minivllm.course.extra.plain_model import PlainModel
from minivllm.layers.context import LayerContext
from minivllm.layers.rotary import RotaryEmbedding

TORCH = "import torch"
PLAIN = "from minivllm.course.extra.plain_model import PlainModel"
LEAKS = "from minivllm.course.extra import ch01_leaks"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for one another
    yield
    torch.set_num_threads(before)


def close(found, expected):
    """Whether all numbers agree, NaN with nothing."""
    return found.shape == expected.shape and torch.allclose(
        found.double(), expected, atol=2e-4, rtol=1e-4, equal_nan=False
    )


def tables(expected, found):
    """Two tables of numbers, the second marked where they differ."""
    if found.shape != expected.shape:
        return f"expected a shape of {list(expected.shape)}, and got {list(found.shape)}"
    lines = ["expected"]
    for row in expected.flatten(1).tolist():
        lines.append("  " + " ".join(f"{x:7.3f} " for x in row))
    lines.append("yours (* differs)")
    for row, wanted in zip(found.flatten(1).tolist(), expected.flatten(1).tolist(), strict=True):
        marks = [
            " " if math.isclose(x, y, abs_tol=2e-4, rel_tol=1e-4) else "*"
            for x, y in zip(row, wanted, strict=True)
        ]
        lines.append("  " + " ".join(f"{x:7.3f}{mark}" for x, mark in zip(row, marks, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def new_history(impl, *names):
    history = impl.history(*names, imports=[TORCH])
    history.namespace["close"] = close
    return history


def expect(history, name, expected, law):
    """The tensor of that name equals `expected`, which becomes a line of the program."""
    history.namespace["expected"] = expected
    found = history.value(name)
    if not (isinstance(found, torch.Tensor) and close(found, expected)):
        numbers = [[round(x, 4) for x in row] for row in expected.flatten(1).tolist()]
        lines = [f"expected = torch.tensor({numbers}).reshape({list(expected.shape)})"]
        lines.append(f"assert torch.allclose({name}, expected, atol=1e-3)")
        picture = tables(expected, found) if isinstance(found, torch.Tensor) else f"{name} is {found!r}"
        history.fail(law, f"{name} is not what it should be.", lines, picture)


def draw(history, names, shape, seed, factor=1):
    """Random tensors of one shape, drawn by a line of the program."""
    sizes = ", ".join(map(str, shape if len(names) == 1 else (len(names), *shape)))
    call = f"torch.randn({sizes}, generator=torch.Generator().manual_seed({seed}))"
    history.run(f"{', '.join(names)} = {f'{factor} * ' if factor != 1 else ''}{call}")


# -- the oracle --------------------------------------------------------------------------------------------------------


def weights_by_hand(query, key, scale):
    """[T, T], from lists of lists: one product, one exponential at a time."""
    rows = []
    for t, asking in enumerate(query):
        scores = [scale * sum(a * b for a, b in zip(asking, key[s], strict=True)) for s in range(t + 1)]
        exps = [math.exp(score - max(scores)) for score in scores]
        rows.append([x / sum(exps) for x in exps] + [0.0] * (len(query) - t - 1))
    return rows


def attention_by_hand(query, key, value, scale):
    """[T, D]."""
    weights = weights_by_hand(query, key, scale)
    return [
        [sum(w * row[d] for w, row in zip(weights[t], value, strict=True)) for d in range(len(value[0]))]
        for t in range(len(query))
    ]


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


# -- 1.1 ---------------------------------------------------------------------------------------------------------------


def runs(prompt, answer):
    """What each run of naive decoding reads: it is walked through, token by token."""
    text, read = prompt, []
    for _ in range(answer):
        read.append(text)  # the whole text
        text += 1  # and one more token is known
    return read


@pytest.mark.exercise("1.1", "smoke")
def test_every_prediction_is_a_whole_number(impl):
    for name in impl.exercise.names[:-1]:
        assert isinstance(getattr(impl, name)(), int), f"{name}() should return a whole number"


@pytest.mark.exercise("1.1", "examples")
@pytest.mark.parametrize(
    "name, number, law",
    [
        ("seen_by_the_last", len([s for s in range(6) if s <= 5]), "seen"),
        ("scores_of_the_prompt", len([1 for t in range(6) for s in range(6) if s <= t]), "triangle"),
        ("tokens_read_naively", sum(runs(6, 12)), "naive"),
        ("tokens_read_once", runs(6, 12)[-1], "once"),
    ],
)
def test_the_prediction(impl, name, number, law):
    history = impl.history(name)
    triangle = "\n".join("x " * (t + 1) + ". " * (5 - t) for t in range(6))
    picture = triangle if law in ("seen", "triangle") else f"the runs read {runs(6, 12)}"
    history.check(f"{name}() == {number}", law, picture)
    print(f"{name}: {number}\n{picture}\n")


@pytest.mark.exercise("1.1", "examples")
@pytest.mark.parametrize("prompt, answer", [(1, 1), (6, 1), (6, 12), (1, 5), (100, 400)])
def test_the_rule(impl, prompt, answer):
    history = impl.history("tokens_read")
    history.check(f"tokens_read({prompt}, {answer}) == {sum(runs(prompt, answer))}", "rule")


# -- 1.2 ---------------------------------------------------------------------------------------------------------------


def check_one_head(history, num_tokens, head_dim, scale):
    """query, key, value stand in the history: check weights and attention, in the order in which a mistake shows."""
    history.run(f"weights = causal_weights(query, key, {scale})")
    history.check(f"weights.shape == ({num_tokens}, {num_tokens})", "shape")
    query, key, value = (history.value(name).tolist() for name in ("query", "key", "value"))
    expected = double(weights_by_hand(query, key, scale))

    def picture():
        return tables(expected, history.value("weights"))

    history.check("not weights.isnan().any()", "weights", picture)
    history.check("(weights.triu(diagonal=1) == 0).all()", "future", picture)
    history.check("(weights.sum(-1) - 1).abs().max() < 1e-4", "sum", picture)
    expect(history, "weights", expected, "weights")
    history.run(f"out = causal_attention(query, key, value, {scale})")
    history.check(f"out.shape == ({num_tokens}, {head_dim})", "shape")
    expect(history, "out", double(attention_by_hand(query, key, value, scale)), "mean")
    return picture


@pytest.mark.exercise("1.2", "smoke")
def test_a_text_of_one_token(impl):
    history = new_history(impl, "causal_weights", "causal_attention")
    history.run("query = key = torch.tensor([[1.0, 2.0]])")
    history.run("value = torch.tensor([[5.0, 7.0]])")
    check_one_head(history, 1, 2, 1.0)


@pytest.mark.exercise("1.2", "examples")
@pytest.mark.parametrize(
    "query, key",
    [
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),  # all are as good
        ([[0.0, 2.0], [2.0, 0.0], [-2.0, 1.0]], [[0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]),
    ],
)
def test_worked_weights(impl, query, key):
    history = new_history(impl, "causal_weights", "causal_attention")
    history.run(f"query = torch.tensor({query})")
    history.run(f"key = torch.tensor({key})")
    history.run("value = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])")
    print(check_one_head(history, 3, 2, 0.5)() + "\n")


@pytest.mark.exercise("1.2", "examples")
def test_large_scores(impl):
    history = new_history(impl, "causal_weights", "causal_attention")
    history.run("query = torch.tensor([[30.0], [30.0], [-30.0]])")
    history.run("key = torch.tensor([[10.0], [10.0], [20.0]])")
    history.run("weights = causal_weights(query, key, 1.0)  # scores of 300 and -600")
    expected = double([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    expect(history, "weights", expected, "stable")


@pytest.mark.exercise("1.2", "properties")
@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.25, 1.0, 3.0]), st.integers(0, 999))
def test_any_one_head(impl, num_tokens, head_dim, scale, seed):
    history = new_history(impl, "causal_weights", "causal_attention")
    draw(history, ("query", "key", "value"), (num_tokens, head_dim), seed)
    check_one_head(history, num_tokens, head_dim, scale)


@pytest.mark.exercise("1.2", "properties")
@settings(max_examples=40)
@given(st.integers(2, 7), st.data(), st.integers(0, 999))
def test_the_future_changes_nothing(impl, num_tokens, data, seed):
    first = data.draw(st.integers(1, num_tokens - 1))
    history = new_history(impl, "causal_attention")
    draw(history, ("query", "key", "value"), (num_tokens, 3), seed)
    history.run("before = causal_attention(query, key, value, 1.0)")
    draw(history, ("query2", "key2", "value2"), (num_tokens, 3), seed + 1000, factor=5)
    for name in ("query", "key", "value"):
        history.run(f"{name}2[:{first}] = {name}[:{first}]  # the future alone is another")
    history.run("after = causal_attention(query2, key2, value2, 1.0)")
    expect(history, f"after[:{first}]", history.value("before")[:first].double(), "future")


# -- 1.3 ---------------------------------------------------------------------------------------------------------------


def kv_heads_by_hand(num_heads, num_kv_heads):
    """Deal neighbours out to kv heads, one after the other."""
    size = num_heads // num_kv_heads
    return [kv_head for kv_head in range(num_kv_heads) for _ in range(size)]


def check_heads(history, num_tokens, num_heads, num_kv_heads, head_dim, scale):
    history.run(f"out = grouped_attention(query, key, value, {scale})")
    history.check(f"out.shape == ({num_tokens}, {num_heads}, {head_dim})", "shape")
    query, key, value = (history.value(name) for name in ("query", "key", "value"))
    for head, kv_head in enumerate(kv_heads_by_hand(num_heads, num_kv_heads)):
        parts = (query[:, head], key[:, kv_head], value[:, kv_head])
        expected = double(attention_by_hand(*(part.tolist() for part in parts), scale))
        expect(history, f"out[:, {head}]", expected, "heads")


@pytest.mark.exercise("1.3", "smoke")
def test_one_token_gets_its_own_value(impl):
    history = new_history(impl, "kv_head_of", "grouped_attention")
    history.check("kv_head_of(0, 1, 1) == 0", "map")
    draw(history, ("query", "key", "value"), (1, 1, 2), 1)
    check_heads(history, 1, 1, 1, 2, 1.0)


@pytest.mark.exercise("1.3", "examples")
@pytest.mark.parametrize("num_heads, num_kv_heads", [(8, 4), (4, 4), (6, 1), (6, 3), (12, 2), (32, 8)])
def test_worked_maps(impl, num_heads, num_kv_heads):
    history = new_history(impl, "kv_head_of")
    expected = kv_heads_by_hand(num_heads, num_kv_heads)
    history.run(f"heads = [kv_head_of(h, {num_heads}, {num_kv_heads}) for h in range({num_heads})]")
    history.check(f"heads == {expected}", "map")
    print(f"{num_heads} query heads, {num_kv_heads} kv heads: {expected}\n")


@pytest.mark.exercise("1.3", "examples")
def test_four_heads_two_kv_heads(impl):
    history = new_history(impl, "grouped_attention")
    draw(history, ("query",), (3, 4, 2), 5)
    draw(history, ("key", "value"), (3, 2, 2), 6)
    check_heads(history, 3, 4, 2, 2, 1.0)


@pytest.mark.exercise("1.3", "properties")
@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 999))
def test_any_heads(impl, num_tokens, group, num_kv_heads, head_dim, seed):
    history = new_history(impl, "grouped_attention")
    draw(history, ("query",), (num_tokens, group * num_kv_heads, head_dim), seed)
    draw(history, ("key", "value"), (num_tokens, num_kv_heads, head_dim), seed + 1000)
    check_heads(history, num_tokens, group * num_kv_heads, num_kv_heads, head_dim, 0.5)


@pytest.mark.exercise("1.3", "properties")
@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 999))
def test_repeating_kv_heads_changes_nothing(impl, num_tokens, group, num_kv_heads, seed):
    history = new_history(impl, "grouped_attention")
    draw(history, ("query",), (num_tokens, group * num_kv_heads, 4), seed)
    draw(history, ("key", "value"), (num_tokens, num_kv_heads, 4), seed + 1000)
    history.run("out = grouped_attention(query, key, value, 0.5)")
    for name in ("key", "value"):
        each = f"[{name}[:, j] for j in range({num_kv_heads}) for _ in range({group})]"
        history.run(f"{name} = torch.stack({each}, dim=1)")
    history.run("mha = grouped_attention(query, key, value, 0.5)")
    expect(history, "out", history.value("mha").double(), "mha")


@cache
def engine_says():
    """The tokens of three texts, by the real model with the attention that every fast path is tested against."""

    def oracle(query, key, value, scale):
        return dense_causal_attention(query, key, value, scale=scale)

    model = PlainModel(oracle)
    return model, [model.logits(text).argmax(-1).tolist() for text in TEXTS]


TEXTS = ([763, 389, 285, 1368, 1369, 33], [5, 900, 17, 42, 1001, 3, 88, 256, 12], [2000])


@pytest.mark.exercise("1.3", "properties")
@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_it_runs_in_the_real_model(impl, number):
    model, said = engine_says()
    history = impl.history("grouped_attention", imports=[PLAIN])
    history.program.append("model = PlainModel(grouped_attention)")
    model.attention, reference = history.value("grouped_attention"), model.attention
    history.namespace["model"] = model
    try:
        history.run(f"next_tokens = model.logits({TEXTS[number]}).argmax(-1).tolist()")
        history.check(f"next_tokens == {said[number]}", "model")
    finally:
        model.attention = reference


# -- 1.4 ---------------------------------------------------------------------------------------------------------------


def turned_by_hand(row, position, theta):
    """One head of one token: its pairs as complex numbers, each times a number of length 1."""
    half = len(row) // 2
    pairs = [complex(row[i], row[i + half]) for i in range(half)]
    turned = [pair * cmath.exp(1j * position * theta ** (-2 * i / len(row))) for i, pair in enumerate(pairs)]
    return [z.real for z in turned] + [z.imag for z in turned]


def check_rotation(history, positions, theta):
    history.run(f"positions = torch.tensor({positions})")
    history.run(f"turned = rotate(x, positions, {theta})")
    history.check("turned.shape == x.shape", "shape")
    history.check("torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-3, atol=1e-4)", "length")
    x, turned = history.value("x").tolist(), history.value("turned")
    for row, position in enumerate(positions):
        expected = double([turned_by_hand(head, position, theta) for head in x[row]])
        others = {row, position - positions[0]} - {position}  # what somebody might take for the position
        is_other = [close(turned[row], double([turned_by_hand(h, p, theta) for h in x[row]])) for p in others]
        law = "rows" if any(is_other) else "zero" if position == 0 else "angle"
        expect(history, f"turned[{row}]", expected, law)


@pytest.mark.exercise("1.4", "smoke")
def test_position_0_turns_nothing(impl):
    history = new_history(impl, "pair_frequencies", "rotate")
    history.check("pair_frequencies(8, 100.0).shape == (4,)", "frequency")
    draw(history, ("x",), (1, 2, 4), 3)
    check_rotation(history, [0], 100.0)


@pytest.mark.exercise("1.4", "examples")
@pytest.mark.parametrize("head_dim, theta", [(2, 100.0), (4, 100.0), (8, 10_000.0), (8, 1_000_000.0)])
def test_worked_frequencies(impl, head_dim, theta):
    history = new_history(impl, "pair_frequencies")
    history.run(f"frequencies = pair_frequencies({head_dim}, {theta})")
    expected = double([[theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]])
    history.check(f"frequencies.shape == ({head_dim // 2},)", "frequency")
    digits = [float(f"{x:.6g}") for x in expected[0].tolist()]
    line = f"torch.allclose(frequencies, torch.tensor({digits}), rtol=1e-3)"
    history.check(line, "frequency", lambda: tables(expected, history.value("frequencies")[None]))
    print(f"D = {head_dim}, theta = {theta:g}: {digits}\n")


@pytest.mark.exercise("1.4", "examples")
@pytest.mark.parametrize("position", [1, 2, 31])
def test_a_worked_turn(impl, position):
    history = new_history(impl, "rotate")
    history.run("x = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0]]])  # one token, two heads")
    check_rotation(history, [position], 100.0)
    print(f"position {position}:\n{history.value('turned').round(decimals=3).tolist()[0]}\n")


@pytest.mark.exercise("1.4", "examples")
@pytest.mark.parametrize("positions", [[40, 41, 42], [3, 0, 3], [7, 2, 1999]])
def test_positions_are_not_row_numbers(impl, positions):
    history = new_history(impl, "rotate")
    draw(history, ("x",), (3, 1, 4), 8)
    check_rotation(history, positions, 100.0)


@pytest.mark.exercise("1.4", "properties")
@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([2, 4, 6]),
    st.sampled_from([10.0, 10_000.0]),
    st.integers(0, 999),
)
def test_any_positions(impl, positions, num_heads, head_dim, theta, seed):
    history = new_history(impl, "rotate")
    draw(history, ("x",), (len(positions), num_heads, head_dim), seed)
    check_rotation(history, positions, theta)


@pytest.mark.exercise("1.4", "properties")
@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 200), st.integers(0, 999))
def test_scores_depend_on_the_distance(impl, one, other, moved, seed):
    history = new_history(impl, "rotate")
    draw(history, ("query", "key"), (1, 1, 6), seed)
    for name, by in (("here", 0), ("there", moved)):
        history.run(f"q = rotate(query, torch.tensor([{one + by}]), 100.0)")
        history.run(f"k = rotate(key, torch.tensor([{other + by}]), 100.0)")
        history.run(f"{name} = (q * k).sum()")
    history.check("abs(float(here) - float(there)) < 1e-3", "distance")


@pytest.mark.exercise("1.4", "properties")
@settings(max_examples=15)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=5), st.integers(0, 999))
def test_the_engine_turns_the_same_way(impl, positions, seed):
    history = new_history(impl, "rotate")
    draw(history, ("x",), (len(positions), 2, 32), seed)
    history.run(f"turned = rotate(x, torch.tensor({positions}), 10_000.0)")
    rotary = RotaryEmbedding(32, 256, 10_000.0, None, LayerContext())
    expected = ops.rotary(history.value("x").clone(), *rotary(torch.tensor(positions)))
    expect(history, "turned", expected.double(), "engine")


# -- 1.5 ---------------------------------------------------------------------------------------------------------------

LEAKY = {
    "load('1.3', 'solutions+mutant:sees-the-next').grouped_attention": "a token sees the next one",
    "load('1.3', 'solutions+mutant:masks-with-zero').grouped_attention": "masked scores are 0, not -inf",
    "load('1.3', 'solutions+mutant:masks-too-late').grouped_attention": "the mask comes after softmax",
    "load('1.3', 'solutions+mutant:down-the-column').grouped_attention": "softmax runs down the column",
    "ch01_leaks.leaks_through_values": "values of the future take part",
    "ch01_leaks.leaks_through_keys": "keys of the future take part",
    "ch01_leaks.leaks_through_queries": "queries of the future take part",
    "ch01_leaks.leaks_in_the_last_head": "one head has no mask",
    "ch01_leaks.leaks_in_longer_texts": "the mask ends after four tokens",
}
CORRECT = [
    "load('1.3', 'solutions').grouped_attention",
    "load('1.3', 'alternative+alternative').grouped_attention",
    "ch01_leaks.centres_values",
    "ch01_leaks.subtracts_the_largest_score",
]
CHECK = "check_causality(attention)"


def watched(impl, code):
    history = impl.history("check_causality", imports=[LEAKS])
    history.run(f"attention = ch01_leaks.Asked({code})")
    return history


def expect_quiet(history):
    is_refused = history.is_refused(CHECK)
    mistakes = history.value("attention.mistakes")
    if mistakes:
        history.fail(
            "asks", f"Your check calls attention with {mistakes[0]}.", [CHECK, "print(attention.mistakes)"]
        )
    if is_refused:
        history.fail("no_false_alarm", "Your check raised an AssertionError.", [CHECK])


@pytest.mark.exercise("1.5", "smoke")
def test_it_keeps_quiet_on_the_package_s_attention(impl):
    expect_quiet(watched(impl, CORRECT[0]))


@pytest.mark.exercise("1.5", "examples")
@pytest.mark.parametrize("code", CORRECT[1:])
def test_it_keeps_quiet_on_correct_attention(impl, code):
    expect_quiet(watched(impl, code))
    print(f"no alarm: {code}")


@pytest.mark.exercise("1.5", "examples")
def test_it_catches_attention_without_a_mask(impl):
    history = watched(impl, "load('1.3', 'solutions+mutant:no-mask').grouped_attention")
    history.refuses(CHECK, "catches")
    print("caught: no mask at all")


@pytest.mark.exercise("1.5", "properties")
def test_it_catches_all_nine_leaks(impl):
    survivors = {}
    for code, what in LEAKY.items():
        history = watched(impl, code)
        if not history.is_refused(CHECK):
            survivors[what] = history
    if survivors:
        what, history = next(iter(survivors.items()))
        finding = (
            f"{len(LEAKY) - len(survivors)} of {len(LEAKY)} leaks caught. Not caught: {'; '.join(survivors)}."
        )
        history.fail("catches", finding, [f"{CHECK}  # should have raised: {what}"])
