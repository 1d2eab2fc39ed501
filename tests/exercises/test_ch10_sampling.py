"""Grader of chapter 10: sampling.

The oracles sort Python lists, count in loops, and add with fsum in float64. Chance is tested with chi-square: fixed
seeds, and limits that a right answer misses less than once in a million times.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.course.grading import compare

TORCH = "import torch"
NUMPY = "import numpy as np"
NEVER = -math.inf
NEAR = 1e-5  # a float32 sum that is nearer to its limit may fall on either side


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: more threads only get in one another's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def softmax(row):
    largest = max(row)
    weights = [math.exp(x - largest) for x in row]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def text(rows):
    """Rows of floats as Python code."""
    return str(rows).replace("-inf", 'float("-inf")')


LOGIT = st.integers(-24, 24).map(lambda i: i / 4)  # exact in float32, and often equal to another


def rows_of(num_columns, max_rows=4):
    return st.lists(
        st.lists(LOGIT, min_size=num_columns, max_size=num_columns), min_size=1, max_size=max_rows
    )


# -- 10.1 --------------------------------------------------------------------------------------------------------------


def ranked(row):
    """Token ids, the most likely first, the lower id first among equals."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


def begin_cut(impl, rows):
    history = impl.history(*impl.exercise.names, imports=[TORCH])
    history.run(f"logits = torch.tensor({text(rows)})")
    return history


def picture_of(row, kept):
    order = ranked(row)
    probs = softmax(row)
    sums = [math.fsum(probs[i] for i in order[: n + 1]) for n in range(len(order))]
    rows = {"token": order, "share": [f"{probs[i]:.3f}" for i in order], "sum": [f"{s:.3f}" for s in sums]}
    return compare(
        {**rows, "expected": ["?"] * len(order), "yours": ["x" if i in kept else "-" for i in order]}
    )


def cut(history, line, rows):
    """Run the line, look at the shape and at what must stay as it was. Returns the kept ids of each row."""
    history.run(line)
    history.check("cut.shape == logits.shape", "shape")
    history.check(f"logits.tolist() == {text(rows)}", "shape")
    found = history.value("cut.tolist()")
    kept = [[i for i, x in enumerate(row) if x != NEVER] for row in found]
    for number, (row, ids) in enumerate(zip(rows, kept, strict=True)):
        for i in ids:
            if found[number][i] != row[i]:
                history.fail(
                    "shape",
                    f"Row {number}: logit {row[i]} of token {i} became {found[number][i]}.",
                    [f"assert cut[{number}, {i}] == {row[i]}"],
                )
        best = ranked(row)[0]
        if best not in ids:
            law = "ties" if any(row[i] == row[best] for i in ids) else "best"
            history.fail(
                law,
                f"Row {number}: token {best} was dropped.",
                [f"assert cut[{number}, {best}] == {row[best]}"],
            )
    return kept


def check_min_p(history, rows, min_p):
    kept = cut(history, f"cut = apply_min_p(logits, torch.tensor({min_p}))", rows)
    for number, (row, p) in enumerate(zip(rows, min_p, strict=True)):
        for i, x in enumerate(row):
            ratio = math.exp(x - max(row))
            if abs(ratio - p) > NEAR * p and (i in kept[number]) != (ratio >= p):
                alone = history.value(
                    f"apply_min_p(logits[{number}:{number + 1}], torch.tensor([{p}]))"
                ).tolist()[0]
                law = "rows" if (alone[i] != NEVER) == (ratio >= p) else "off" if p == 0 else "min_p"
                said = "kept" if i in kept[number] else "dropped"
                told = f"Row {number}, min_p {p}: token {i} is {ratio:.4f} times as likely as the best, and was {said}."
                sign = "==" if ratio < p else "!="
                history.fail(law, told, [f"assert cut[{number}, {i}] {sign} -torch.inf"])


def check_ranks(history, rows, top_k, top_p):
    """`top_k` and `top_p` are lists, or None."""
    shown = [f"torch.tensor({numbers})" if numbers else "None" for numbers in (top_k, top_p)]
    kept = cut(history, f"cut = apply_top_k_top_p(logits, {', '.join(shown)})", rows)
    for number, row in enumerate(rows):
        k = top_k[number] if top_k else len(row)
        p = top_p[number] if top_p else 1.0
        finding = cut_wrongly(row, kept[number], k, p)
        if finding is None:
            continue
        law, told = finding
        one = [f"torch.tensor([{numbers[number]}])" if numbers else "None" for numbers in (top_k, top_p)]
        alone = history.value(f"apply_top_k_top_p(logits[{number}:{number + 1}], {', '.join(one)})").tolist()[
            0
        ]
        if cut_wrongly(row, [i for i, x in enumerate(alone) if x != NEVER], k, p) is None:
            law = "rows"
        lines = [f"print([i for i, x in enumerate(cut[{number}].tolist()) if x != -torch.inf])  # {told}"]
        said = f"Row {number}, top_k {k}, top_p {p}: {told}"
        history.fail(law, said, lines, picture_of(row, kept[number]))


def cut_wrongly(row, kept, k, p):
    """(law, finding), or None: is `kept` what top-k and then top-p leave of the row?"""
    order = ranked(row)
    if k >= len(row) and p >= 1:
        return (
            None
            if len(kept) == len(row)
            else ("off", f"nothing was asked for, and {len(kept)} tokens are left.")
        )
    if sorted(kept) != sorted(order[: len(kept)]):
        worst, lost = kept and min(row[i] for i in kept), max(row[i] for i in order if i not in kept)
        law = "ties" if worst == lost else "top_k"
        return law, f"{kept} were kept, and {sorted(order[: len(kept)])} are more likely, or have lower ids."
    if p >= 1 or len(kept) > k:
        return None if len(kept) == min(k, len(row)) else ("top_k", f"{len(kept)} tokens were kept.")
    probs = softmax([row[i] for i in order[:k]])
    total, without = math.fsum(probs[: len(kept)]), math.fsum(probs[: len(kept) - 1])
    whole = softmax(row)
    exact = max(row) == min(row)  # equal shares are exact in binary, if there are 2, 4 or 8 of them
    near = 0.0 if exact and len(probs) in (1, 2, 4, 8) else NEAR
    if total < p - near or (len(kept) > 1 and without >= p + near):
        old = [math.fsum(whole[i] for i in order[:n]) for n in (len(kept), len(kept) - 1)]
        unscaled = k < len(row) and (old[0] >= p > old[1] or len(kept) == k)
        told = f"{len(kept)} tokens reach {total:.4f}, and {len(kept) - 1} reach {without:.4f}."
        return ("rest" if unscaled else "smallest"), told
    return None


SHARES = [[math.log(share) for share in (0.4, 0.1, 0.25, 0.05, 0.2)]]


@pytest.mark.exercise("10.1", "smoke")
def test_one_row_is_cut(impl):
    check_min_p(begin_cut(impl, [[2.0, 0.0, 1.0]]), [[2.0, 0.0, 1.0]], [0.4])
    check_ranks(begin_cut(impl, [[2.0, 0.0, 1.0]]), [[2.0, 0.0, 1.0]], [2], None)
    check_ranks(begin_cut(impl, [[2.0, 0.0, 1.0]]), [[2.0, 0.0, 1.0]], None, [0.7])


@pytest.mark.exercise("10.1", "examples")
@pytest.mark.parametrize("min_p", [0.0, 0.1, 0.3, 0.55, 1.0])
def test_min_p_of_five_tokens(impl, min_p):
    rows = torch.tensor(SHARES).tolist()
    check_min_p(begin_cut(impl, rows), rows, [min_p])
    print(f"shares 0.4 0.1 0.25 0.05 0.2, min_p {min_p}: what is at least {0.4 * min_p:.2f} stays")


@pytest.mark.exercise("10.1", "examples")
@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [
        ([1], None),
        ([3], None),
        ([5], None),
        (None, [0.3]),
        (None, [0.5]),
        (None, [0.8]),
        (None, [1.0]),
        ([3], [0.6]),
        ([2], [0.55]),
    ],
)
def test_ranks_of_five_tokens(impl, top_k, top_p):
    rows = torch.tensor(SHARES).tolist()
    check_ranks(begin_cut(impl, rows), rows, top_k, top_p)
    print(f"shares 0.4 0.1 0.25 0.05 0.2, top_k {top_k}, top_p {top_p}")


@pytest.mark.exercise("10.1", "examples")
@pytest.mark.parametrize(
    ("rows", "top_k", "top_p"),
    [
        ([[1.0, 3.0, 3.0, 3.0, 2.0]], [2], None),  # three equals, room for two
        ([[0.0, 0.0]], None, [0.5]),  # one of two reaches a half exactly
        ([[0.0] * 4], None, [0.75]),
        ([[0.0] * 8], [4], [0.5]),
        ([[5.0, 0.0, 0.0]], None, [1e-50]),  # the best stays, however small p
        (
            [[0.0, -30.0, -40.0], [1.0, 0.5, 0.0]],
            None,
            [1.0, 0.4],
        ),  # a tail too light for a float32 sum, and p = 1
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [1, 3, 2], [1.0, 0.5, 0.9]),
    ],
)
def test_edges(impl, rows, top_k, top_p):
    check_ranks(begin_cut(impl, rows), rows, top_k, top_p)
    print(f"{rows}, top_k {top_k}, top_p {top_p}")


@pytest.mark.exercise("10.1", "properties")
@settings(max_examples=80)
@given(st.data())
def test_any_ranks(impl, data):
    rows = data.draw(rows_of(data.draw(st.integers(1, 8))))
    ks = st.lists(st.integers(1, len(rows[0])), min_size=len(rows), max_size=len(rows))
    p = st.just(1.0) | st.integers(1, 99).map(lambda i: i / 100)
    ps = st.lists(p, min_size=len(rows), max_size=len(rows))
    check_ranks(begin_cut(impl, rows), rows, data.draw(st.none() | ks), data.draw(st.none() | ps))


@pytest.mark.exercise("10.1", "properties")
@settings(max_examples=60)
@given(st.data())
def test_any_min_p(impl, data):
    rows = data.draw(rows_of(data.draw(st.integers(1, 8))))
    p = st.sampled_from([0.0, 1.0]) | st.integers(1, 99).map(lambda i: i / 100)
    check_min_p(begin_cut(impl, rows), rows, data.draw(st.lists(p, min_size=len(rows), max_size=len(rows))))


# -- 10.2 --------------------------------------------------------------------------------------------------------------

PENALTIES = "from minivllm.sampling.logits_processors import Penalties"


def punished(row, repetition, frequency, presence, prompt, output):
    """One row, token by token."""
    result = []
    for token, x in enumerate(row):
        if token in prompt or token in output:
            x = x / repetition if x > 0 else x * repetition
        x -= frequency * sum(1 for said in output if said == token)
        x -= presence * (token in output)
        result.append(x)
    return result


def law_of(row, ask, token, got):
    """Which law a wrong logit breaks: by what is asked for, and where the token occurs."""
    repetition, frequency, presence, prompt, output = ask
    if token not in prompt and token not in output:
        return "padding" if token == 0 else "rows"
    on = [name for name, value in (("frequency", frequency), ("presence", presence)) if value]
    if repetition == 1:
        return "output" if token not in output else on[0] if len(on) == 1 else "presence"
    if on:
        return "order"
    times = [*prompt, *output].count(token)
    is_both = times > 1 or abs(got - row[token]) < 1e-6  # more than once, or not at all
    return "both" if is_both else "repetition"


def is_right_alone(history, index, number, expected):
    """Does row `number`, with what it asks for at `index`, come out right when it is the only row?"""
    fields = ["repetition", "frequency", "presence", "token_ids", "is_prompt", "is_output"]
    own = ", ".join(f"penalties.{name}[{index}:{index + 1}]" for name in fields)
    call = f"apply_penalties(logits[{number}:{number + 1}], Penalties(torch.tensor([0]), {own}))"
    return np.allclose(history.value(f"{call}.tolist()"), [expected], rtol=1e-4, atol=1e-4)


def check_penalties(impl, rows, asks, length=None):
    """`asks`: row -> (repetition, frequency, presence, prompt, output)."""
    known = [[*ask[3], *ask[4]] for ask in asks.values()]
    length = length or max(map(len, known), default=1)
    padded = [tokens + [0] * (length - len(tokens)) for tokens in known]
    places = [(len(ask[3]), len(ask[3]) + len(ask[4])) for ask in asks.values()]
    masks = [
        [[i < a for i in range(length)] for a, _ in places],
        [[a <= i < b for i in range(length)] for a, b in places],
    ]
    history = impl.history("apply_penalties", imports=[TORCH, PENALTIES])
    history.run(f"logits = torch.tensor({rows})")
    numbers = ", ".join(f"torch.tensor({[float(ask[i]) for ask in asks.values()]})" for i in range(3))
    lists = ", ".join(f"torch.tensor({value})" for value in (padded, *masks))
    history.run(f"penalties = Penalties(torch.tensor({list(asks)}), {numbers}, {lists})")
    history.run("punished = apply_penalties(logits, penalties)")
    history.check("punished.shape == logits.shape", "shape")
    history.check(f"logits.tolist() == {rows}", "shape")
    found = history.value("punished.tolist()")
    for number, row in enumerate(rows):
        expected = punished(row, *asks[number]) if number in asks else row
        for token, (x, got) in enumerate(zip(expected, found[number], strict=True)):
            if not math.isclose(x, got, rel_tol=1e-4, abs_tol=1e-4):
                law = "rows"
                if number in asks and not is_right_alone(history, list(asks).index(number), number, expected):
                    law = law_of(row, asks[number], token, got)
                told = f"Row {number}: token {token} should get {x:.4f}, and got {got:.4f}."
                picture = compare(
                    {
                        "token": range(len(row)),
                        "expected": [f"{v:.2f}" for v in expected],
                        "yours": [f"{v:.2f}" for v in found[number]],
                    }
                )
                history.fail(
                    law, told, [f"assert abs(punished[{number}, {token}] - {x:.6f}) < 1e-4"], picture
                )


ROW = [2.0, -2.0, 1.0, -1.0, 3.0]


@pytest.mark.exercise("10.2", "smoke")
def test_one_penalty(impl):
    check_penalties(impl, [ROW], {0: (1.0, 0.5, 0.0, [1], [2])})


@pytest.mark.exercise("10.2", "examples")
@pytest.mark.parametrize(
    "ask",
    [
        (2.0, 0.0, 0.0, [], [0, 1]),  # a positive and a negative logit
        (2.0, 0.0, 0.0, [1, 4], [4]),  # prompt, both, and once however often
        (0.5, 0.0, 0.0, [0, 3], []),  # below 1: more likely
        (1.0, 0.5, 0.0, [2], [1, 1, 1, 4]),  # three times
        (1.0, 0.0, 0.5, [2], [1, 1, 1, 4]),  # once
        (
            1.0,
            -1.0,
            1.0,
            [],
            [0, 0],
        ),  # they undo each other for a token said once, and not for one said twice
        (1.5, 0.5, 0.25, [0], [0, 3, 3]),
        (2.0, 1.5, 0.0, [], [0]),  # the order shows where subtracting changes the sign
        (2.0, 0.0, 1.5, [], [2]),
    ],
)
def test_worked_penalties(impl, ask):
    check_penalties(impl, [ROW], {0: ask})
    print(f"logits {ROW}, (repetition, frequency, presence, prompt, output) = {ask}\n{punished(ROW, *ask)}\n")


@pytest.mark.exercise("10.2", "examples")
@pytest.mark.parametrize("length", [4, 9])
def test_padding_has_the_id_of_a_token(impl, length):
    check_penalties(impl, [ROW], {0: (2.0, 0.0, 0.0, [1], [2])}, length)
    check_penalties(impl, [ROW], {0: (1.0, 1.0, 0.5, [1], [2])}, length)


@pytest.mark.exercise("10.2", "examples")
def test_rows_that_ask_for_nothing(impl):
    check_penalties(
        impl, [ROW, ROW[::-1], ROW], {2: (1.5, 0.5, 0.0, [0], [1]), 1: (1.0, 0.0, 1.0, [3], [2, 2])}
    )


@pytest.mark.exercise("10.2", "properties")
@settings(max_examples=80)
@given(st.data())
def test_any_penalties(impl, data):
    num_tokens = data.draw(st.integers(1, 6))
    rows = data.draw(rows_of(num_tokens))
    tokens = st.lists(st.integers(0, num_tokens - 1), max_size=4)
    minus = st.sampled_from([0.0, 0.0, -2.0, 0.5, 2.0])
    ask = st.tuples(st.sampled_from([1.0, 1.0, 0.5, 1.5]), minus, minus, tokens, tokens)
    which = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, unique=True))
    check_penalties(impl, rows, {number: data.draw(ask) for number in which})


# -- 10.3 --------------------------------------------------------------------------------------------------------------


def shares(row):
    """Where each token begins and ends on a ruler from 0 to 1."""
    total, ends = math.fsum(row), []
    for token in range(len(row)):
        ends.append(math.fsum(row[: token + 1]) / total)
    return list(zip([0.0, *ends], ends, strict=False))


def ruler(row):
    return "\n".join(f"token {i}: {low:.4f} to {high:.4f}" for i, (low, high) in enumerate(shares(row)))


def check_draw(impl, rows, random):
    history = impl.history("draw", imports=[TORCH])
    history.run(f"probs = torch.tensor({rows})")
    history.run(f"random = torch.tensor({random}, dtype=torch.float64)")
    history.run("tokens = draw(probs, random)")
    history.check(f"(tokens.shape, tokens.dtype) == (({len(rows)},), torch.int64)", "shape")
    for number, (row, u, token) in enumerate(
        zip(rows, random, history.value("tokens.tolist()"), strict=True)
    ):
        low, high = shares(row)[token] if 0 <= token < len(row) else (2.0, 2.0)
        lines = [f"print(tokens[{number}], random[{number}], probs[{number}])"]
        if 0 <= token < len(row) and row[token] == 0:
            history.fail(
                "never", f"Row {number}: token {token} has probability 0.", lines, lambda row=row: ruler(row)
            )
        if not low - 1e-12 <= u < high + (1e-12 if token == len(row) - 1 else 0):
            alone = history.value(
                f"draw(probs[{number}:{number + 1}], random[{number}:{number + 1}])"
            ).tolist()[0]
            law = "rows" if alone != token else "scale" if abs(math.fsum(row) - 1) > 0.01 else "share"
            told = f"Row {number}: {u} lies outside the share of token {token}."
            history.fail(law, told, lines, lambda row=row: ruler(row))


@pytest.mark.exercise("10.3", "smoke")
def test_three_tokens(impl):
    check_draw(impl, [[0.25, 0.5, 0.25]], [0.5])


@pytest.mark.exercise("10.3", "examples")
@pytest.mark.parametrize(
    ("rows", "random"),
    [
        ([[0.25, 0.5, 0.25]] * 5, [0.0, 0.25, 0.74, 0.75, 0.999]),  # an end belongs to the next token
        ([[0.0, 0.5, 0.0, 0.5, 0.0]] * 4, [0.0, 0.49, 0.5, 1 - 2**-53]),  # no width, no draw
        ([[1.0, 1.0, 2.0]] * 4, [0.2, 0.25, 0.5, 0.9]),  # adds up to 4
        ([[0.125, 0.125]] * 2, [0.4, 0.6]),
        ([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], [0.9, 0.1, 0.6]),
        ([[1.0, 1.0], [4.0, 4.0]], [0.75, 0.25]),
    ],
)
def test_worked_draws(impl, rows, random):
    check_draw(impl, rows, random)
    print(f"{rows[0]}\n{ruler(rows[0])}\n")


@pytest.mark.exercise("10.3", "properties")
@settings(max_examples=80)
@given(st.data())
def test_any_draws(impl, data):
    num_tokens, num_rows = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    weight = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 3.0])
    row = st.lists(weight, min_size=num_tokens, max_size=num_tokens).filter(any)
    rows = data.draw(st.lists(row, min_size=num_rows, max_size=num_rows))
    u = st.integers(0, 63).map(lambda i: i / 64) | st.floats(0, 1, exclude_max=True, width=32)
    check_draw(impl, rows, data.draw(st.lists(u, min_size=num_rows, max_size=num_rows)))


@pytest.mark.exercise("10.3", "properties")
def test_chi_square(impl):
    """4,000 evenly spread numbers, shuffled, against the exact softmax of six logits."""
    probs = softmax([1.0, 0.0, -1.0, 2.0, -3.0, 0.5])
    random = np.random.default_rng(10).random(4000)
    history = impl.history("draw", imports=[TORCH, NUMPY])
    history.run(f"probs = torch.tensor([{[round(p, 8) for p in probs]}]).expand(4000, -1)")
    history.run("random = torch.from_numpy(np.random.default_rng(10).random(4000))")
    history.run("tokens = draw(probs, random)")
    counts = np.bincount(np.array(history.value("tokens.tolist()")), minlength=6)
    statistic = sum((n - 4000 * p) ** 2 / (4000 * p) for n, p in zip(counts, probs, strict=True))
    picture = "\n".join(
        f"token {i}: {4000 * p:7.1f} expected, {n:5} drawn"
        for i, (p, n) in enumerate(zip(probs, counts, strict=True))
    )
    if statistic > 38:  # five degrees of freedom: a right answer gets there less than once in a million times
        history.fail("chance", f"Chi-square is {statistic:.1f}, and should be below 38.", picture=picture)
    history.check("tokens.tolist() == draw(probs, random).tolist()", "rows")
    assert len(random) == sum(counts)


@pytest.mark.exercise("10.3", "properties")
def test_a_whole_vocabulary(impl):
    """65,536 equal tokens: number i / 65,536 + a half belongs to token i."""
    history = impl.history("draw", imports=[TORCH])
    history.run("n = 65536")
    history.run("places = torch.tensor([0, 1, 1000, 32768, 60001, 65535])")
    history.run("tokens = draw(torch.full((1, n), 1 / n).expand(6, -1), (places + 0.5).double() / n)")
    history.check("tokens.tolist() == places.tolist()", "precise")


# -- 10.4 --------------------------------------------------------------------------------------------------------------


def begin_uniform(impl):
    history = impl.history("uniform", imports=[NUMPY])
    history.run(
        "def pairs(seeds, positions): return np.array(seeds, dtype=np.int64), np.array(positions, dtype=np.int64)"
    )
    return history


def chi_square(numbers, num_bins=64):
    counts = np.bincount((np.asarray(numbers) * num_bins).astype(int), minlength=num_bins)
    expected = len(numbers) / num_bins
    return float(((counts - expected) ** 2 / expected).sum())


def check_even(history, expression, law):
    """Evenly spread, and so are the distances of neighbours (modulo 1)."""
    numbers = np.array(history.value(expression))
    for what, values in (("the numbers", numbers), ("the steps between them", np.diff(numbers) % 1.0)):
        statistic = chi_square(values)
        if not 12 < statistic < 145:  # 63 degrees of freedom
            told = f"{expression}: chi-square of {what} in 64 bins is {statistic:.0f}, and should be near 63."
            history.fail(law, told, [f"print({expression})"])


@pytest.mark.exercise("10.4", "smoke")
def test_three_pairs(impl):
    history = begin_uniform(impl)
    history.run("u = uniform(*pairs([1, 1, 2], [0, 1, 0]))")
    history.check("(u.shape, u.dtype) == ((3,), np.float64)", "range")
    history.check("((0 <= u) & (u < 1)).all()", "range")


@pytest.mark.exercise("10.4", "examples")
def test_every_seed_is_taken(impl):
    history = begin_uniform(impl)
    history.run("u = uniform(*pairs([-2**63, -1, 0, 1, 2**63 - 1], [0, 0, 0, 0, 2**40]))")
    history.check("((0 <= u) & (u < 1)).all() and len(set(u.tolist())) == 5", "range")
    print(history.value("u"))


@pytest.mark.exercise("10.4", "examples")
def test_alone_and_in_a_crowd(impl):
    history = begin_uniform(impl)
    history.run("together = uniform(*pairs([7, 8, 9, 7], [0, 0, 0, 3])).tolist()")
    history.run(
        "alone = [uniform(*pairs([s], [p])).tolist()[0] for s, p in [(7, 0), (8, 0), (9, 0), (7, 3)]]"
    )
    history.check("together == alone", "function")
    history.run("turned = uniform(*pairs([7, 9, 8, 7], [3, 0, 0, 0])).tolist()")
    history.check("turned == together[::-1]", "function")
    print(history.value("together"))


@pytest.mark.exercise("10.4", "examples")
def test_choices_of_one_request(impl):
    """Choice i is drawn with seed + i: what it draws is no shifted copy of what another one draws."""
    history = begin_uniform(impl)
    history.run("rows = [uniform(*pairs([100 + i] * 6, range(6))).tolist() for i in range(4)]")
    history.check("len({u for row in rows for u in row}) == 24", "neighbours")
    history.run(
        "small = uniform(*pairs([s for s in range(6) for _ in range(6)], list(range(6)) * 6)).tolist()"
    )
    history.check("len(set(small)) == 36", "neighbours")
    print("\n".join(" ".join(f"{u:.3f}" for u in row) for row in history.value("rows")))


@pytest.mark.exercise("10.4", "properties")
@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), st.integers(0, 5)),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_a_function_of_the_pair(impl, pairs, data):
    history = begin_uniform(impl)
    history.run(f"these = {pairs}")
    history.run("together = dict(zip(these, uniform(*pairs(*zip(*these))).tolist()))")
    order = data.draw(st.permutations(pairs))[: data.draw(st.integers(1, len(pairs)))]
    history.run(f"again = {order}")
    history.check("uniform(*pairs(*zip(*again))).tolist() == [together[pair] for pair in again]", "function")


@pytest.mark.exercise("10.4", "properties")
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_even_along_positions(impl, seed):
    check_even(begin_uniform(impl), f"uniform(*pairs([{seed}] * 4096, range(4096)))", "positions")


@pytest.mark.exercise("10.4", "properties")
@pytest.mark.parametrize("position", [0, 1, 500])
def test_even_along_seeds(impl, position):
    check_even(begin_uniform(impl), f"uniform(*pairs(range(4096), [{position}] * 4096))", "seeds")


@pytest.mark.exercise("10.4", "properties")
def test_fine(impl):
    history = begin_uniform(impl)
    history.run("u = uniform(*pairs(range(50000), [3] * 50000))")
    history.check("len(set(u.tolist())) == 50000", "fine")


@pytest.mark.exercise("10.4", "properties")
def test_streams(impl):
    history = begin_uniform(impl)
    history.run("streams = [uniform(*pairs([5] * 4096, range(4096)), stream) for stream in (0, 1, 2)]")
    history.check("(streams[0] == uniform(*pairs([5] * 4096, range(4096)))).all()", "streams")
    history.check("len({u for stream in streams for u in stream.tolist()}) == 3 * 4096", "streams")
    for one, other in ((0, 1), (1, 2), (0, 2)):
        check_even(history, f"(streams[{one}] - streams[{other}]) % 1.0", "streams")


# -- 10.5 --------------------------------------------------------------------------------------------------------------


def check_logprobs(impl, rows, chosen, wanted, dtype="float32"):
    history = impl.history("gather_logprobs", imports=[TORCH, NUMPY])
    history.run(f"logits = torch.tensor({rows}, dtype=torch.{dtype})")
    rows = history.value("logits.tolist()")
    history.run(f"told = gather_logprobs(logits, torch.tensor({chosen}), np.array({wanted}))")
    history.check(f"logits.tolist() == {rows}", "raw")
    history.check(f"len(told) == {len(rows)}", "count")
    for number, (row, token, count) in enumerate(zip(rows, chosen, wanted, strict=True)):
        largest = max(row)
        base = largest + math.log(math.fsum(math.exp(x - largest) for x in row))
        exact = [x - base for x in row]
        count = len(row) if count < 0 else min(count, len(row))
        history.check(
            f"len(told[{number}].token_ids) == len(told[{number}].logprobs) == {1 + count}", "count"
        )
        history.check(f"told[{number}].token_ids[0] == {token}", "chosen")
        ids, values = history.value(f"(told[{number}].token_ids, told[{number}].logprobs)")
        got = [exact[i] for i in ids[1:]]
        likely = sorted(exact, reverse=True)[:count]
        if len(set(ids[1:])) != count or any(abs(a - b) > 1e-3 for a, b in zip(got, likely, strict=True)):
            told = f"Row {number}: {ids[1:]} are not the {count} most likely tokens in their order."
            history.fail("likely", told, [f"print(told[{number}])"])
        history.check(f"all(type(x) is float and np.isfinite(x) for x in told[{number}].logprobs)", "stable")
        for place, (i, value) in enumerate(zip(ids, values, strict=True)):
            if abs(value - exact[i]) > 1e-3 + 1e-6 * abs(exact[i]):
                told = f"Row {number}: token {i} has the log-probability {exact[i]:.4f}, and not {value:.4f}."
                history.fail(
                    "value", told, [f"assert abs(told[{number}].logprobs[{place}] - {exact[i]:.6f}) < 1e-3"]
                )
        rank = 1 + sum(1 for x in row if x > row[token])
        history.check(f"told[{number}].rank == {rank}", "rank")


@pytest.mark.exercise("10.5", "smoke")
def test_one_row_of_logprobs(impl):
    check_logprobs(impl, [[1.0, 3.0, 2.0]], [2], [2])


@pytest.mark.exercise("10.5", "examples")
@pytest.mark.parametrize(
    ("rows", "chosen", "wanted"),
    [
        ([[0.0, 1.0, 2.0, 3.0]], [0], [0]),
        ([[0.0, 1.0, 2.0, 3.0]], [3], [-1]),
        ([[0.0, 1.0, 2.0, 3.0]], [1], [9]),  # more than there are
        ([[2.0, 2.0, 1.0, 2.0]], [3], [1]),  # twins
        ([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], [0, 1, 1], [2, 0, 1]),  # each its own number
        ([[0.0, -250.0, 100.0]], [1], [3]),  # far away
        ([[10000.0, 9999.0, -10000.0]], [2], [2]),
    ],
)
def test_worked_logprobs(impl, rows, chosen, wanted):
    check_logprobs(impl, rows, chosen, wanted)
    print(f"{rows}, chosen {chosen}, num_logprobs {wanted}")


@pytest.mark.exercise("10.5", "examples")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(impl, dtype):
    check_logprobs(impl, [[0.5, 1.5, -3.0, 8.0]], [0], [4], dtype)


@pytest.mark.exercise("10.5", "properties")
@settings(max_examples=60)
@given(st.data())
def test_any_logprobs(impl, data):
    num_tokens = data.draw(st.integers(1, 7))
    rows = data.draw(rows_of(num_tokens))
    each = {"min_size": len(rows), "max_size": len(rows)}
    chosen = data.draw(st.lists(st.integers(0, num_tokens - 1), **each))
    check_logprobs(impl, rows, chosen, data.draw(st.lists(st.integers(-1, num_tokens + 1), **each)))


# -- 10.6 --------------------------------------------------------------------------------------------------------------

TOY = "from minivllm.course.toy_beams import ToySearch"
CLASSES = ("Hypothesis", "BeamSearchGroup")


def score_of(tokens, logprob, is_eos, num_prompt, penalty):
    length = num_prompt + len(tokens) - (1 if is_eos else 0)
    return logprob / max(length, 1) ** penalty


def plain_step(live, told, width, eos, max_tokens, num_prompt, penalty):
    """One step of a beam search on plain tuples. Returns (live, finished); a beam is (tokens, log-probability)."""
    longer, finished = [], []
    for tokens, logprob in live:
        for token, more in told(tokens):
            found = ((*tokens, token), logprob + more)
            (finished if token == eos else longer).append(found)
    longer.sort(key=lambda beam: score_of(*beam, False, num_prompt, penalty), reverse=True)
    longer = longer[:width]
    if longer and len(longer[0][0]) == max_tokens:
        return [], finished + longer
    return longer, finished


def begin_search(impl, **fields):
    history = impl.history(*CLASSES, imports=[TOY])
    shown = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    history.run(f"search = ToySearch(BeamSearchGroup, Hypothesis, {shown})")
    return history


def told_by(search):
    """The made-up model's most likely tokens, through the search's own entries."""

    def told(tokens):
        entry = search._entry(tokens)
        return list(zip(entry.token_ids[1:], entry.logprobs[1:], strict=True))

    return told


def beams_picture(live):
    return "\n".join(f"{logprob:9.4f}  {' '.join(map(str, tokens))}" for tokens, logprob in live) or "nobody"


def check_assigned(history, expected, before):
    """Who goes on, who forks, who stops: names only."""
    names = [history.value(f"[e.parent.request_id for e in did.{kind}]") for kind in ("proceed", "fork")]
    found = (*names, history.value("[request.request_id for request in did.stop]"))
    parents = [
        next(name for name, tokens in before.items() if tokens == survivor[:-1]) for survivor, _ in expected
    ]
    goes_on = list(dict.fromkeys(parents))
    forks = sorted(name for name in goes_on for _ in range(parents.count(name) - 1))
    wanted = (sorted(goes_on), forks, sorted(set(before) - set(goes_on)))
    got = tuple(sorted(names) for names in found)
    if got != wanted:
        told = f"Going on, forked, stopping should be {wanted}, and are {got}."
        history.fail("assign", told, ["print(did)"], beams_picture(expected))
    first = {
        name: next(e[0] for e, parent in zip(expected, parents, strict=True) if parent == name)
        for name in goes_on
    }
    history.check(
        f"{{e.parent.request_id: e.hypothesis.token_ids for e in did.proceed}} == {first}", "assign"
    )


def logprob_of(told, tokens):
    return math.fsum(dict(told(tokens[:i]))[token] for i, token in enumerate(tokens))


def check_live(history, expected, told):
    """The live hypotheses and their log-probabilities."""
    live = history.value(
        "sorted((h.token_ids, h.cumulative_logprob) for h in search.group.hypotheses.values())"
    )
    wanted = sorted(expected)
    picture = f"expected\n{beams_picture(wanted)}\nyours\n{beams_picture(live)}"
    if any(abs(found - logprob_of(told, tokens)) > 1e-9 for tokens, found in live):
        lines = ["print(search.group.hypotheses)"]
        history.fail("extend", "A log-probability is not the sum over its tokens.", lines, picture)
    if [tokens for tokens, _ in live] != [tokens for tokens, _ in wanted]:
        lines = ["print(search.live)"]
        history.fail("survivors", "The survivors are not the best of all extensions.", lines, picture)


def check_finished(history, expected, ended):
    found = history.value("sorted((h.token_ids, h.is_eos) for h in search.group.finished)")
    wanted = sorted((tokens, tokens[-1] == ended) for tokens, _ in expected)
    if found != wanted:
        told = f"Finished should be {wanted}, and are {found}."
        only_ends = [item for item in wanted if item[1]] != [item for item in found if item[1]]
        history.fail("ends" if only_ends else "limit", told, ["print(search.group.finished)"])


def check_memory(history):
    """Every beam reads its own tokens, and no block is lost."""
    search = history.value("search")
    for name, tokens in search.live.items():
        history.check(f"search.memory.read({name!r}) == {[*search.prompt, *tokens]}", "memory")
    history.check(f"sorted(search.memory.tables) == {sorted(search.live)}", "memory")
    history.run("search.memory.check()")


def check_search(impl, **fields):
    history = begin_search(impl, **fields)
    search = history.value("search")
    told, eos = told_by(search), fields.get("eos")
    rest = (eos, fields["max_tokens"], len(search.prompt), fields.get("length_penalty", 1.0))
    live, finished = [((), 0.0)], []
    for _ in range(fields["max_tokens"]):
        if not live:
            break
        before, parents = dict(search.live), live
        history.check("not search.group.is_finished", "survivors")
        live, ended = plain_step(parents, told, fields["width"], *rest)
        finished += ended
        history.run("did = search.step()")
        check_extensions(history, eos, told)
        check_finished(history, finished, eos)
        check_live(history, live, told)
        check_assigned(history, live, before)
        history.check("search.group.candidates == {}", "used")
        check_memory(history)
    history.check("search.group.is_finished", "limit")
    history.check("search.memory.num_held == 0", "memory")
    by_score = sorted(finished, key=lambda b: score_of(*b, b[0][-1] == eos, *rest[2:]), reverse=True)
    best = [tokens for tokens, _ in by_score[: fields["width"]]]
    history.check(f"[h.token_ids for h in search.group.best()] == {best}", "score")
    return best, rest


def check_extensions(history, eos, told):
    """Every extension is its hypothesis, one candidate longer, each once, and none of them has ended."""
    found = history.value("[e.hypothesis.token_ids for e in [*did.proceed, *did.fork]]")
    if len(set(found)) != len(found):
        history.fail("extend", f"The same continuation twice: {found}.", ["print(did)"])
    if any(tokens[-1] == eos for tokens in found):
        history.fail("ends", f"One that has ended lives on: {found}.", ["print(did)"])
    for tokens in found:
        if tokens[-1] not in [token for token, _ in told(tokens[:-1])]:
            history.fail("extend", f"{tokens} extends by what is no candidate.", ["print(did)"])
    finished = history.value("[h.token_ids for h in search.group.finished]")
    twice = [tokens for tokens in finished if finished.count(tokens) > 1]
    if twice:
        law = "ends" if twice[0][-1] == eos else "extend"
        history.fail(law, f"Finished twice: {twice[0]}.", ["print(search.group.finished)"])


@pytest.mark.exercise("10.6", "smoke")
def test_two_beams(impl):
    history = begin_search(impl, width=2, max_tokens=2)
    history.run("did = search.step()")
    history.check("len(search.live) >= 1", "survivors")


@pytest.mark.exercise("10.6", "examples")
@pytest.mark.parametrize(
    ("num_tokens", "is_eos", "num_prompt", "penalty"),
    [
        (4, False, 2, 1.0),
        (4, True, 2, 1.0),
        (4, False, 2, 0.0),
        (3, False, 5, 2.0),
        (1, True, 0, 1.0),
        (2, True, 0, 0.5),
    ],
)
def test_scores(impl, num_tokens, is_eos, num_prompt, penalty):
    history = impl.history("Hypothesis")
    expected = score_of(range(num_tokens), -3.0, is_eos, num_prompt, penalty)
    call = f"Hypothesis({tuple(range(num_tokens))}, -3.0, {is_eos}).score({num_prompt}, {penalty})"
    history.check(f"abs({call} - {expected!r}) < 1e-9", "score")
    print(f"{call} is {expected:.4f}")


@pytest.mark.exercise("10.6", "examples")
@pytest.mark.parametrize("salt", range(3))
def test_worked_searches(impl, salt):
    best, _ = check_search(impl, width=3, max_tokens=4, salt=salt, eos=salt)
    print(f"width 3, 4 tokens, made-up model {salt}: {best}")


@pytest.mark.exercise("10.6", "properties")
@settings(max_examples=40)
@given(
    width=st.integers(1, 4),
    max_tokens=st.integers(1, 5),
    vocab_size=st.integers(2, 6),
    eos=st.none() | st.integers(0, 1),
    length_penalty=st.sampled_from([0.0, 1.0, 2.0, -1.0]),
    salt=st.integers(0, 99),
    num_prompt_tokens=st.integers(1, 4),
    block_size=st.integers(1, 4),
)
def test_any_search(impl, **fields):
    check_search(impl, **fields)


@pytest.mark.exercise("10.6", "properties")
@pytest.mark.parametrize("salt", range(4))
def test_wide_enough_is_exact(impl, salt):
    """27 beams hold every continuation of 3 tokens over 3: the best of them is the best there is."""
    history = begin_search(impl, width=27, max_tokens=3, vocab_size=3, salt=salt)
    search = history.value("search")
    told = told_by(search)
    best = max(product(range(3), repeat=3), key=lambda tokens: logprob_of(told, tokens))
    history.run("search.run()")
    history.check(f"search.group.best()[0].token_ids == {best}", "best")
