"""Distributions of lengths: the mean that was asked for, inside the limits, the same for the same seed."""

import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.sim.lengths import Constant, Exponential, LogNormal, Uniform, fit_to_mean


@given(
    st.sampled_from([Exponential, LogNormal]),
    st.floats(1, 200),
    st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    st.integers(0, 5),
)
def test_a_fitted_sample_has_the_mean_and_keeps_the_limits(kind, mean, limits, seed):
    if mean > sum(limits) / len(limits):
        with pytest.raises(ValueError, match="does not fit"):
            kind(mean).sample(Random(seed), limits)
        return
    lengths = kind(mean).sample(Random(seed), limits)
    assert all(1 <= n <= limit for n, limit in zip(lengths, limits, strict=True))
    # Each length is rounded; near the mean the fit moves one of them at a time.
    assert sum(lengths) / len(lengths) == pytest.approx(mean, abs=0.5 + 1 / len(limits))


@pytest.mark.parametrize("kind", [Exponential, LogNormal])
def test_a_large_sample_has_the_mean_exactly_enough(kind):
    lengths = kind(338).sample(Random(1), [1900] * 2000)
    assert statistics.mean(lengths) == pytest.approx(338, abs=0.01)


def test_the_spread_of_a_log_normal_is_its_cv():
    lengths = LogNormal(500, cv=0.5).sample(Random(0), [100_000] * 4000)
    assert statistics.stdev(lengths) / statistics.mean(lengths) == pytest.approx(0.5, rel=0.05)


def test_the_spread_of_an_exponential_equals_its_mean():
    lengths = Exponential(500).sample(Random(0), [100_000] * 4000)
    assert statistics.stdev(lengths) / statistics.mean(lengths) == pytest.approx(1, rel=0.05)
    assert statistics.median(lengths) == pytest.approx(500 * 0.6931, rel=0.05)  # ln 2


def test_a_uniform_sample_reaches_both_ends():
    lengths = Uniform(16, 20).sample(Random(0), [100] * 500)
    assert set(lengths) == {16, 17, 18, 19, 20}
    assert Uniform(16, 20).sample(Random(0), [17] * 50) != [17] * 50
    assert max(Uniform(16, 20).sample(Random(0), [17] * 50)) == 17


def test_a_constant_is_cut_to_the_limit():
    assert Constant(7).sample(Random(0), [9, 7, 3]) == [7, 7, 3]


def test_the_same_seed_draws_the_same():
    assert Exponential(30).sample(Random("a"), [500] * 9) == Exponential(30).sample(Random("a"), [500] * 9)
    assert Exponential(30).sample(Random("a"), [500] * 9) != Exponential(30).sample(Random("b"), [500] * 9)


def test_fitting_nothing_gives_nothing():
    assert fit_to_mean([], 5, []) == []


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Constant(0), "value"),
        (lambda: Uniform(5, 4), "high"),
        (lambda: Uniform(0, 4), "low"),
        (lambda: Exponential(0.5), "mean"),
        (lambda: Exponential(float("nan")), "mean"),
        (lambda: LogNormal(float("inf")), "mean"),
        (lambda: LogNormal(10, cv=0), "cv"),
        (lambda: LogNormal(10, cv=float("nan")), "cv"),
    ],
)
def test_a_mistake_gets_a_sentence_that_names_it(make, word):
    with pytest.raises(ValueError, match=f"^{word} must be"):
        make()
