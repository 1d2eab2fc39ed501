"""Exercise 10.4: Random numbers without a state."""

from __future__ import annotations

import numpy as np

from minivllm.sampling.random import DRAW


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)


_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every input bit reaches every output bit. Arithmetic modulo 2**64."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def uniform(seeds: np.ndarray, positions: np.ndarray, stream: int = DRAW) -> np.ndarray:
    """One number in [0, 1) for each (seed, output position).

    Args:
        seeds: [R] int64.
        positions: [R] int64, how many tokens the request had generated before this draw.
        stream: what the number is for.

    Returns:
        [R] float64 with 53 random bits each.
    """
    state = _mix(seeds.astype(np.int64).view(np.uint64) + _GOLDEN)
    state = _mix(state ^ (positions.astype(np.int64).view(np.uint64) * _GOLDEN + _GOLDEN))
    if stream:
        state = _mix(state ^ np.uint64(stream))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
