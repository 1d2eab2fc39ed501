"""The rule, enumerated: over all drafts and random numbers a token comes out as often as the model would draw it."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.sampling.sampler import draw
from minivllm.spec_decode.draft_length import draft_lengths
from minivllm.spec_decode.rejection_sampler import NO_DRAFT, leading, rejection_sample

GRID = 16  # probabilities are multiples of 1 / GRID, so that counting a grid of random numbers is exact


@st.composite
def distributions(draw_, size):
    cuts = sorted(draw_(st.lists(st.integers(0, GRID), min_size=size - 1, max_size=size - 1)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, GRID], strict=True)]


@settings(max_examples=60)
@given(data=st.data(), size=st.integers(2, 4))
def test_a_token_comes_out_as_often_as_the_model_would_draw_it(data, size):
    p, q = data.draw(distributions(size)), data.draw(distributions(size))
    # q[x] x the cells of a fine grid in [0, 1): how often is the draft x kept, and from what is drawn otherwise?
    cells = (
        16 * 15 * 7 * 11 * 13
    )  # q * u < p is decided at u = p / q, a multiple of 1 / q: q divides most of these
    chance = [Fraction(0)] * size
    for x in range(size):
        if q[x] == 0:
            continue
        edges = np.array([0, *sorted({Fraction(p[x], q[x])} if p[x] < q[x] else set()), 1], dtype=float)
        middles = (edges[1:] + edges[:-1]) / 2  # one random number for each side of the edge
        for u, low, high in zip(middles, edges[:-1], edges[1:], strict=True):
            is_accepted, weights = rejection_sample(
                torch.tensor([p]) / GRID,
                torch.tensor([q]) / GRID,
                torch.tensor([x]),
                torch.tensor([u], dtype=torch.float64),
            )
            width = Fraction(q[x], GRID) * Fraction(high - low).limit_denominator(cells)
            if is_accepted.item():
                chance[x] += width
            else:
                shares = [Fraction(w).limit_denominator(GRID) for w in weights[0].tolist()]
                for y in range(size):
                    chance[y] += width * shares[y] / sum(shares)
    assert chance == [Fraction(n, GRID) for n in p]


def test_the_edges_of_the_rule():
    """p = q keeps always, p = 0 never; without a draft the model's own distribution is drawn from."""
    p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]])
    q = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    almost_one = torch.full((3,), 1 - 2**-53, dtype=torch.float64)
    is_accepted, weights = rejection_sample(p, q, torch.tensor([1, 0, NO_DRAFT]), almost_one)
    assert is_accepted.tolist() == [True, False, False]
    assert weights.tolist() == [p[0].tolist(), [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]]
    zero = torch.zeros(3, dtype=torch.float64)
    is_accepted, _ = rejection_sample(p, q, torch.tensor([1, 0, NO_DRAFT]), zero)
    assert is_accepted.tolist() == [True, False, False]


def test_whole_drafts_are_exact_by_enumeration():
    """Three tokens over a vocabulary of three: each of the 27 texts comes out with the model's own probability.

    The model's and the drafter's distributions depend on the text so far. A grid of 12 random numbers for each choice
    would be too many to walk, so probabilities are carried along instead of numbers.
    """
    rng = np.random.default_rng(3)
    table = {}

    def model(text, who):
        if (text, who) not in table:
            weights = rng.integers(1, 6, 3)
            table[text, who] = [Fraction(int(w), int(weights.sum())) for w in weights]
        return table[text, who]

    def outcomes(text):
        """[(tokens of a step with two drafts, chance)]: kept as the paper writes it, drawn as the code weighs it."""
        found = []
        for drafts in itertools.product(range(3), repeat=2):
            chance, said, alive = Fraction(1), (), True
            for i, x in enumerate(drafts):
                chance *= model((*text, *drafts[:i]), "draft")[x]
            for x in drafts:
                p, q = model((*text, *said), "target"), model((*text, *said), "draft")
                keep = min(Fraction(1), p[x] / q[x])
                _, weights = rejection_sample(
                    torch.tensor([[float(v) for v in p]], dtype=torch.float64),
                    torch.tensor([[float(v) for v in q]], dtype=torch.float64),
                    torch.tensor([x]),
                    torch.tensor([0.5], dtype=torch.float64),
                )
                if keep < 1:
                    left = weights[0].tolist()
                    for y in range(3):
                        share = Fraction(left[y] / sum(left)).limit_denominator(10**6)
                        found.append(((*said, y), chance * (1 - keep) * share))
                chance, said = chance * keep, (*said, x)
            assert alive
            found += [((*said, y), chance * model((*text, *said), "target")[y]) for y in range(3)]
        return found

    def texts(text, length):
        if len(text) >= length:
            return {text[:length]: Fraction(1)}
        total = {}
        for said, chance in outcomes(text):
            for whole, rest in texts((*text, *said), length).items():
                total[whole] = total.get(whole, 0) + chance * rest
        return total

    for text, chance in texts((), 3).items():
        expected = Fraction(1)
        for i, token in enumerate(text):
            expected *= model(text[:i], "target")[token]
        assert chance == expected


def test_lost_residual_falls_back_to_the_model():
    """Where rounding leaves nothing of p - q, a token that the model allows comes out."""
    p = torch.tensor([[0.0, 1.0 - 2**-24, 0.0]])
    q = torch.tensor([[0.0, 1.0, 0.0]])
    u = torch.tensor([1 - 2**-53], dtype=torch.float64)
    is_accepted, weights = rejection_sample(p, q, torch.tensor([1]), u)
    assert is_accepted.tolist() == [True] or draw(weights, u).tolist() == [1]


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_leading_ends_with_the_first_that_was_not_accepted(counts, data):
    accepted = [data.draw(st.lists(st.booleans(), min_size=c, max_size=c)) for c in counts]
    expected = []
    for one in accepted:
        alive = True
        for is_accepted in one:
            expected.append(alive)
            alive = alive and is_accepted
    flat = np.array([a for one in accepted for a in one])
    assert leading(flat, np.array(counts)).tolist() == expected


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_a_drafter_that_is_always_wrong_costs_what_was_stated(rate):
    rejected, k = 0, 4
    for said in range(200):
        length = int(draft_lengths(k, rate, np.array([said]), np.array([rejected]))[0])
        assert 0 <= length <= k
        rejected += length
        assert rejected <= k + rate * said
    assert rejected > rate * 190  # and uses what it may
    assert draft_lengths(k, None, np.array([1, 2]), np.array([50, 0])).tolist() == [k, k]
