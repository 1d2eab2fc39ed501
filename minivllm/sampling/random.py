"""Random numbers without a state: the draw for output position p of a request is a function of (seed, p) alone.

So batching, order and preemption cannot change what a seeded request says, and a whole batch is drawn at once.
Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011) for the idea of counter-based generators;
the mixing function is SplitMix64's (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every input bit reaches every output bit. Arithmetic modulo 2**64."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def _mix_one(z: int) -> int:
    """`_mix` of one number."""
    z = (z ^ (z >> 30)) * int(_MIX_1) & (2**64 - 1)
    z = (z ^ (z >> 27)) * int(_MIX_2) & (2**64 - 1)
    return z ^ (z >> 31)


# Streams: a position may need several numbers that know nothing of one another.
DRAW = 0  # for the token itself
DRAFT = 1  # for a draft model's guess
ACCEPT = 2  # for accepting a draft


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


def derive_seed(engine_seed: int, request_number: int) -> int:
    """The int64 seed of a request that brought none: the engine's seed and its number of arrival, mixed."""
    golden, mask = (
        int(_GOLDEN),
        2**64 - 1,
    )  # in Python's numbers: for a single one numpy takes ten times as long
    mixed = _mix_one(_mix_one((engine_seed + golden) & mask) ^ (request_number * golden & mask))
    return mixed - 2**64 if mixed >= 2**63 else mixed
