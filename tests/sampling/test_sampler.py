"""The sampler, row by row and as a batch, against the oracle's plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minivllm.request import Request
from minivllm.sampling.logits_processors import Penalties, apply_grammar, apply_penalties
from minivllm.sampling.metadata import GreedyRows, sampling_rows
from minivllm.sampling.sampler import Sampler, apply_min_p, apply_top_k_top_p, draw
from minivllm.sampling_params import SamplingParams

V = 8
MARGIN = 1e-4  # float32 against float64: a decision that is nearer than this may fall either way

logit = st.integers(-40, 40).map(lambda i: i / 8)  # exact in float32, and often equal to another
logit_rows = st.lists(logit, min_size=V, max_size=V)
ids = st.integers(0, V - 1)
probability = st.integers(1, 99).map(lambda i: i / 100)


@st.composite
def rows(draw):
    """(params, seed, prompt, output, kwargs) of one request."""
    penalty = st.sampled_from([0.0, 0.0, -2.0, 0.5, 2.0])
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.25, 1.0, 2.0])),
        top_p=draw(st.just(1.0) | probability),
        top_k=draw(st.integers(0, V + 2)),
        min_p=draw(st.just(0.0) | probability),
        min_tokens=draw(st.integers(0, 4)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.5, 1.5])),
        frequency_penalty=draw(penalty),
        presence_penalty=draw(penalty),
        logit_bias=draw(st.none() | st.dictionaries(ids, st.sampled_from([-100, -1.5, 3, 100]), max_size=3)),
        allowed_token_ids=draw(st.none() | st.lists(ids, min_size=2, max_size=V)),
    )
    stops = draw(st.frozensets(ids, max_size=2))
    assume(not params.allowed_token_ids or set(params.allowed_token_ids) - stops)
    prompt, output = draw(st.lists(ids, min_size=1, max_size=5)), draw(st.lists(ids, max_size=5))
    begun = st.builds(lambda k, last: [*(prompt + output)[-k:], last], st.integers(1, 3), ids)
    words = draw(st.lists(st.lists(ids, min_size=1, max_size=3) | begun, max_size=2))
    kwargs = {"stop_token_ids": stops, "bad_words_token_ids": words}
    return params, draw(st.integers(-5, 2**63 - 1)), prompt, output, kwargs


@settings(max_examples=200)
@given(data=st.data())
def test_every_row_of_a_batch_gets_what_the_oracle_chooses_and_what_it_gets_alone(data, oracle, sample):
    batch = data.draw(st.lists(rows(), min_size=1, max_size=5))
    logits = [data.draw(logit_rows) for _ in batch]
    together = sample(logits, batch)
    for row, row_logits, token in zip(batch, logits, together, strict=True):
        assert token == sample([row_logits], [row])[0]
        params, seed, prompt, output, kwargs = row
        banned = {"stop_token_ids": kwargs["stop_token_ids"], "bad_words": kwargs["bad_words_token_ids"]}
        if all(x == -math.inf for x in oracle.processed(row_logits, params, prompt, output, **banned)):
            continue  # the request forbade everything: any token will do
        expected, margin = oracle.choose(row_logits, params, seed, prompt, output, **banned)
        assert token == expected or margin < MARGIN


@settings(max_examples=60)
@given(data=st.data())
def test_a_step_may_hold_any_rows_of_the_batch_in_any_order(data, sample):
    batch = data.draw(st.lists(rows(), min_size=2, max_size=5))
    order = data.draw(st.permutations(range(len(batch))))
    picked = order[: data.draw(st.integers(1, len(batch)))]
    logits = [data.draw(logit_rows) for _ in picked]
    alone = [sample([x], [batch[row]])[0] for x, row in zip(logits, picked, strict=True)]
    assert sample(logits, batch, picked) == alone


@given(st.lists(rows(), min_size=1, max_size=5), st.data())
def test_each_row_of_a_step_brings_its_own_numbers(batch, data):
    """Also where a row occurs several times, as it does when drafts are verified."""
    requests = [Request(f"r{i}", prompt, p, seed=s) for i, (p, s, prompt, *_) in enumerate(batch)]
    picked = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=8))
    said = data.draw(st.lists(st.integers(0, 9), min_size=len(batch), max_size=len(batch)))
    offset = data.draw(st.lists(st.integers(0, 3), min_size=len(picked), max_size=len(picked)))
    known = np.array([len(row[2]) + n for row, n in zip(batch, said, strict=True)])
    table = sampling_rows(requests, V, torch.device("cpu"))
    token_ids = np.zeros((len(batch), 20), dtype=np.int32)
    metadata = table.select(np.array(picked), known, np.array(offset), token_ids)
    params = [batch[row][0] for row in picked]
    off = {"top_k": V, "top_p": 1.0, "min_p": 0.0}
    wanted = {
        "temperature": [p.temperature for p in params],
        "top_k": [p.top_k if 0 < p.top_k < V else V for p in params],
        "top_p": [p.top_p for p in params],
        "min_p": [p.min_p for p in params],
    }
    for name, values in wanted.items():
        column = getattr(metadata, name)
        assert (set(values) == {off[name]}) if column is None else column.tolist() == pytest.approx(values)
    if isinstance(table, GreedyRows):  # nobody draws
        assert metadata.all_greedy and len(metadata.seeds) == len(picked)
        return
    assert metadata.seeds.tolist() == [batch[row][1] for row in picked]
    assert metadata.positions.tolist() == [said[row] + n for row, n in zip(picked, offset, strict=True)]


def test_a_penalty_goes_to_its_own_row_wherever_that_stands_in_the_step(sample):
    free = (SamplingParams(temperature=0), 0, [5], [], {})
    punished = (SamplingParams(temperature=0, frequency_penalty=1.0), 0, [5], [0], {})
    logits = [[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]] * 2
    assert sample(logits, [punished, free, free], picked=[2, 0]) == [0, 1]
    assert sample(logits, [free, free, punished], picked=[2, 0]) == [1, 0]


@pytest.mark.parametrize(
    "fields", [{}, {"top_k": V}, {"top_k": V + 5}, {"top_k": -1}, {"logit_bias": {}}], ids=str
)
def test_what_no_row_uses_costs_no_pass(fields):
    """A top_k of all tokens, or of more than there are, drops nothing; then nothing is sorted either."""
    table = sampling_rows([Request("r", [0], SamplingParams(**fields))] * 2, V, torch.device("cpu"))
    metadata = table.select(np.arange(2), np.array([1, 1]))
    for name in ("top_k", "top_p", "min_p", "forbidden", "allowed", "bias", "penalties", "grammar"):
        assert getattr(metadata, name) is None, name


def kept(logits):
    return [{i for i, x in enumerate(row) if x > -math.inf} for row in logits.tolist()]


@given(st.lists(logit_rows, min_size=1, max_size=4), st.data())
def test_top_k_and_top_p_keep_the_smallest_sets(logits, data):
    """By their definitions: no kept token is worse than a dropped one, and one token fewer would not be enough."""
    R = len(logits)
    top_k = data.draw(st.lists(st.integers(1, V), min_size=R, max_size=R))
    top_p = data.draw(st.lists(st.just(1.0) | probability, min_size=R, max_size=R))
    x = torch.tensor(logits)
    by_k = kept(apply_top_k_top_p(x, torch.tensor(top_k), None))
    by_p = kept(apply_top_k_top_p(x, None, torch.tensor(top_p)))
    both = apply_top_k_top_p(x, torch.tensor(top_k), torch.tensor(top_p))
    for r in range(R):
        rank = lambda i, row=logits[r]: (-row[i], i)  # noqa: E731
        best_first = sorted(range(V), key=rank)
        assert by_k[r] == set(best_first[: top_k[r]])
        weights = [math.exp(value) for value in logits[r]]
        mass = sum(weights)
        assert by_p[r] == set(best_first[: len(by_p[r])])
        assert sum(weights[i] for i in by_p[r]) / mass >= min(top_p[r], 1 - 1e-9) - 1e-5
        worst = max(by_p[r], key=rank)
        assert len(by_p[r]) == 1 or sum(weights[i] for i in by_p[r] - {worst}) / mass < top_p[r] + 1e-5
        assert kept(both)[r] <= by_k[r] & by_p[r] | {best_first[0]}
        assert all(both[r, i] == x[r, i] for i in kept(both)[r])  # what stays is not changed


@given(st.lists(logit_rows, min_size=1, max_size=4), st.data())
def test_min_p_keeps_exactly_what_is_likely_enough_beside_the_best(logits, data):
    min_p = data.draw(
        st.lists(st.sampled_from([0.0, 1.0]) | probability, min_size=len(logits), max_size=len(logits))
    )
    result = apply_min_p(torch.tensor(logits), torch.tensor(min_p))
    for row, keeps, p in zip(logits, kept(result), min_p, strict=True):
        ratios = [math.exp(x - max(row)) for x in row]
        assert all(i in keeps for i in range(V) if ratios[i] > p + 1e-6 or ratios[i] == 1)
        assert all(i not in keeps for i in range(V) if ratios[i] < p - 1e-6)


@pytest.mark.parametrize(
    "params", [{"top_p": 1e-300}, {"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-9, "top_k": 5}]
)
def test_the_strictest_filter_leaves_the_best_token(params, sample):
    row = (SamplingParams(**params), 3, [1], [], {})
    assert sample([[0.0, 1.0, 4.0, 2.0]], [row]) == [2]


def test_of_thousands_of_equals_the_lowest_ids_are_kept():
    logits = torch.zeros(2, 20_000)
    kept_ids = apply_top_k_top_p(logits, torch.tensor([5, 7]), None).isfinite()
    assert [row.nonzero().flatten().tolist() for row in kept_ids] == [list(range(5)), list(range(7))]


def test_top_p_is_reached_by_exactly_as_much():
    """Four equals have a quarter each, exactly: half of the probability is two of them, and a little more is three."""
    top_p = torch.tensor([0.25, 0.5, 0.500001, 0.75, 1.0])
    assert [len(ids) for ids in kept(apply_top_k_top_p(torch.zeros(5, 4), None, top_p))] == [1, 2, 3, 3, 4]


def test_a_row_without_top_p_keeps_its_tail_beside_a_row_with_it():
    """In float32 the best token's probability is 1 here; the others are still possible."""
    logits = torch.tensor([[20.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert kept(apply_top_k_top_p(logits, None, torch.tensor([1.0, 0.5]))) == [{0, 1, 2}, {0, 1}]


def test_equal_logits_go_to_the_lowest_id(sample):
    greedy = (SamplingParams(temperature=0), 0, [0], [], {})
    sampled = (SamplingParams(seed=1), 0, [0], [], {})
    logits = [[1.0, 5.0, 5.0, 5.0], [7.0] * 4, [-1.0, -1.0, -2.0, -1.0]]
    assert sample(logits, [greedy] * 3) == [1, 0, 0]
    assert sample([*logits, [0.0] * 4], [*[greedy] * 3, sampled])[:3] == [1, 0, 0]
    assert (
        sample([[1.0, 5.0, 5.0, 5.0]] * 20, [(SamplingParams(top_k=1), s, [0], [], {}) for s in range(20)])
        == [1] * 20
    )


def test_a_draw_takes_the_first_token_beyond_the_number_and_never_an_impossible_one():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    for u, token in [(0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (1 - 2**-53, 4)]:
        assert draw(probs, torch.tensor([u], dtype=torch.float64)).tolist() == [token]


def test_a_rare_token_behind_a_likely_one_can_be_drawn():
    """0.75 + 1e-9 is 0.75 in float32: the sums need more."""
    probs = torch.tensor([[0.75, 1e-9, 0.25]])
    random = torch.tensor([0.75 * (1 - 1e-9) + 0.5e-9], dtype=torch.float64)
    assert draw(probs, random).tolist() == [1]


def test_a_row_in_which_nothing_is_possible_still_gets_a_token():
    probs = torch.full((1, 4), -math.inf).softmax(dim=-1)  # not a number
    assert 0 <= draw(probs, torch.tensor([0.5], dtype=torch.float64)).item() < 4


def test_what_rounding_left_of_the_total_is_shared_out_and_not_given_to_the_last_token():
    probs = torch.tensor([[0.25, 0.25, 0.0, 0.0]])  # float32 sums are not exactly 1; here by far
    for u, token in [(0.0, 0), (0.49, 0), (0.5, 1), (0.75, 1), (1 - 2**-53, 1)]:
        assert draw(probs, torch.tensor([u], dtype=torch.float64)).tolist() == [token]


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20), st.floats(0, 1, exclude_max=True))
def test_no_number_draws_a_token_of_probability_zero(weights, u):
    assume(sum(weights) > 1e-3)
    probs = torch.tensor([weights]) / sum(weights)
    for number in (u, 0.0, 1 - 2**-53):
        token = draw(probs, torch.tensor([number], dtype=torch.float64)).item()
        assert probs[0, token] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_type_are_sampled_in_float32(dtype, sample):
    logits = torch.linspace(-2, 2, 100).repeat(300, 1).to(dtype)
    params = SamplingParams(top_p=0.9, min_p=0.01, logit_bias={50: 1.001, 51: -0.3})
    rows = [(params, seed, [0], [], {}) for seed in range(300)]
    assert sample(logits, rows) == sample(logits.float(), rows)


def test_penalties_by_hand():
    """Repetition 2 halves 3 and doubles -3, for prompt and output alike; then 0.5 for each time said, and 0.25 once."""
    penalties = Penalties(
        rows=torch.tensor([1]),
        repetition=torch.tensor([2.0]),
        frequency=torch.tensor([0.5]),
        presence=torch.tensor([0.25]),
        token_ids=torch.tensor([[0, 1, 2, 3, 3, 4]]),
        is_prompt=torch.tensor([[True, True, False, False, False, False]]),
        is_output=torch.tensor([[False, False, True, True, True, False]]),  # the last is padding
    )
    logits = torch.tensor([[3.0, -3.0, 3.0, -3.0, 3.0]] * 2)
    expected = [logits[0].tolist(), [1.5, -6.0, 1.5 - 0.75, -6.0 - 1.25, 3.0]]
    assert apply_penalties(logits, penalties).tolist() == expected


@given(st.lists(logit_rows, min_size=1, max_size=4), st.data())
def test_a_grammar_binds_its_own_rows_and_no_other(logits, data):
    rows = data.draw(st.permutations(range(len(logits))))
    rows = rows[: data.draw(st.integers(1, len(rows)))]
    allowed = [data.draw(st.sets(ids)) for _ in rows]
    masks = torch.tensor([[token in tokens for token in range(V)] for tokens in allowed])
    result = apply_grammar(torch.tensor(logits), torch.tensor(rows), masks)
    by_row = dict(zip(rows, allowed, strict=True))
    for row, values in enumerate(logits):
        may = by_row.get(row, range(V))
        assert result[row].tolist() == [x if i in may else -math.inf for i, x in enumerate(values)]


def test_the_bias_comes_before_the_penalties(sample):
    """(1 + 1) / 2 is less than 1.5; 1 / 2 + 1 would be as much, and token 0 would win."""
    params = SamplingParams(temperature=0, logit_bias={0: 1.0}, repetition_penalty=2.0)
    assert sample([[1.0, 1.5]], [(params, 0, [0], [], {})]) == [1]


# -- the draws as a whole ------------------------------------------------------------------------------------

MENU = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_p": 0.8},
    {"min_p": 0.2},
    {"temperature": 2.0, "min_p": 0.25},  # at temperature 1 another set would be kept
    {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    {"logit_bias": {5: 3.0}, "allowed_token_ids": [1, 2, 5, 7]},
]


@pytest.mark.parametrize("fields", MENU, ids=str)
@pytest.mark.parametrize("varied", ["seed", "position"])
def test_the_draws_follow_the_exact_distribution(fields, varied, oracle, sample):
    """Pearson's chi-square over 20 000 draws with fixed seeds, within 4 standard deviations of its mean."""
    num_draws = 20_000
    logits = [0.3, 2.0, -1.0, 1.2, 0.0, -0.4, 1.9, 0.7]
    params = SamplingParams(**fields)
    probs, _ = oracle.distribution(oracle.processed(logits, params), params)
    if varied == "seed":
        tokens = sample([logits] * num_draws, [(params, seed, [0], [], {}) for seed in range(num_draws)])
    else:
        table = sampling_rows([Request("r", [0], params, seed=11)] * num_draws, V, torch.device("cpu"))
        positions = np.arange(num_draws)
        tokens = Sampler()(
            torch.tensor([logits] * num_draws), table.select(positions, 1 + positions)
        ).tolist()
    counts = np.bincount(tokens, minlength=V)
    assert {i for i in range(V) if counts[i]} <= set(probs)
    expected = {i: p * num_draws for i, p in probs.items()}
    statistic = sum((counts[i] - e) ** 2 / e for i, e in expected.items())
    freedom = len(expected) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom), (counts, expected)
