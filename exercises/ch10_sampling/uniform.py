"""Exercise 10.4: Random numbers without a state. (implement, about 20 minutes)

A usual random generator has a state: the next number depends on how many were drawn before, and so
on who else is in the batch. Here the number is a function of (seed, position) and nothing else, so
a request says the same alone, in a crowd, and after a preemption. `stream` gives a position several
numbers that know nothing of one another.

Any good function will do. The numbers have to look random along positions, along seeds, and from
stream to stream. Take care with neighbours: choice i of a request with n > 1 has the seed seed + i,
and must not say the same with a shift.

`_mix` is written: it scrambles 64 bits so well that each bit of its input reaches each bit of its
result. You may do without it; then use something that is equal in every run of the program.
Arithmetic on np.uint64 arrays wraps around, and that is fine.

Check: python -m minivllm.course check 10.4     (or: python -m pytest exercises/ch10_sampling/uniform.py)
Stuck: python -m minivllm.course hint 10.4
"""

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
    raise NotImplementedError("exercise 10.4: uniform")
