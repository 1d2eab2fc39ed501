"""What speculation is worth: against a simulation that throws coins, and against the worked cases of the paper."""

import random

import pytest

from minivllm.spec_decode.cost_model import best_length, break_even, speedup, tokens_per_step


@pytest.mark.parametrize(("agreement", "k"), [(0.3, 4), (0.8, 4), (0.95, 8), (0.6, 1)])
def test_tokens_of_a_step_are_those_of_a_simulation(agreement, k):
    rng, total, rounds = random.Random(5), 0, 40_000
    for _ in range(rounds):
        said = 1
        while said <= k and rng.random() < agreement:
            said += 1
        total += said
    assert tokens_per_step(agreement, k) == pytest.approx(total / rounds, rel=0.01)


def test_the_edges():
    assert tokens_per_step(0.0, 5) == 1 and tokens_per_step(1.0, 5) == 6
    assert speedup(1.0, 3, 2.0) == 2.0
    assert break_even(5.01, 4) is None and break_even(0.5, 4) < 1e-9
    assert break_even(5.0, 4) == pytest.approx(1.0, abs=1e-6)
    assert break_even(1.75, 2) == pytest.approx(0.5, abs=1e-6)  # 1 + 1/2 + 1/4


def test_the_best_length_grows_with_the_agreement_and_shrinks_with_the_cost():
    lengths = [best_length(a, 0.1, 16) for a in (0.0, 0.05, 0.5, 0.8, 0.9, 0.99)]
    assert lengths == sorted(lengths) and lengths[:2] == [0, 0] and lengths[-1] == 16
    costs = [best_length(0.8, c, 16) for c in (0.0, 0.05, 0.2, 0.5, 0.9)]
    assert costs == sorted(costs, reverse=True) and costs[0] == 16 and costs[-1] == 0
