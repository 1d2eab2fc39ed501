"""uniform(): the documented function, uniform, and independent of its neighbours in seed and position."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.sampling.random import ACCEPT, DRAFT, DRAW, derive_seed, uniform

int64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
GRID = np.stack(
    np.meshgrid(np.arange(-50, 450), np.arange(200), indexing="ij")
)  # seeds and positions, 100 000 pairs


def grid(seeds=GRID[0], positions=GRID[1], stream=DRAW):
    return uniform(seeds.ravel().astype(np.int64), positions.ravel(), stream).reshape(seeds.shape)


@given(pairs=st.lists(st.tuples(int64, st.integers(0, 2**40)), min_size=1, max_size=20))
def test_it_is_the_documented_function_of_seed_and_position_alone(pairs, oracle):
    seeds, positions = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    assert uniform(seeds, positions).tolist() == [oracle.uniform(*pair) for pair in pairs]


def chi_square(counts, expected):
    """How many standard deviations Pearson's statistic is above its mean."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def test_numbers_fill_the_unit_interval_evenly():
    u = grid()
    assert u.min() >= 0 and u.max() < 1
    for bins in (2, 10, 1000):
        counts = np.histogram(u, bins, (0, 1))[0]
        assert abs(chi_square(counts, u.size / bins)) < 4
    low_bits = (u.ravel() * 2**53).astype(np.int64) % 256
    assert abs(chi_square(np.bincount(low_bits, minlength=256), u.size / 256)) < 4


@pytest.mark.parametrize("step", [(1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2), (64, 0), (0, 64)])
def test_neighbours_know_nothing_of_each_other(step):
    """Pairs of neighbouring draws fill the unit square evenly."""
    u, v = grid(), grid(GRID[0] + step[0], GRID[1] + step[1] + 100)
    counts = np.histogram2d(u.ravel(), v.ravel(), 20, [(0, 1), (0, 1)])[0]
    assert abs(chi_square(counts, u.size / 400)) < 4
    assert abs(np.corrcoef(u.ravel(), v.ravel())[0, 1]) < 4 / math.sqrt(u.size)


@pytest.mark.parametrize("streams", [(DRAW, DRAFT), (DRAW, ACCEPT), (DRAFT, ACCEPT)])
def test_the_streams_of_a_position_know_nothing_of_each_other(streams):
    """A draft that is drawn and accepted by one number would be accepted whenever it is likely: not exact."""
    u, v = (grid(stream=stream) for stream in streams)
    counts = np.histogram2d(u.ravel(), v.ravel(), 20, [(0, 1), (0, 1)])[0]
    assert abs(chi_square(counts, u.size / 400)) < 4


def test_no_draw_occurs_twice():
    assert len(np.unique(grid())) == GRID[0].size


@pytest.mark.parametrize("engine_seed", [0, 1, 2**63 - 1])
def test_requests_without_a_seed_get_seeds_of_their_own(engine_seed):
    seeds = [derive_seed(engine_seed, number) for number in range(1000)]
    assert len(set(seeds)) == 1000 and all(-(2**63) <= seed < 2**63 for seed in seeds)
    assert seeds == [derive_seed(engine_seed, number) for number in range(1000)]
    assert not set(seeds) & {derive_seed(engine_seed ^ 2, number) for number in range(1000)}
    u = uniform(np.array(seeds, dtype=np.int64), np.zeros(1000, dtype=np.int64))
    assert abs(chi_square(np.histogram(u, 20, (0, 1))[0], 50)) < 4
