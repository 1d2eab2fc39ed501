"""Lengths: how long prompts and answers are. Four distributions, drawn reproducibly.

Published workloads usually state a mean and nothing else. `Exponential` therefore needs nothing else; `LogNormal` takes
the spread as well. Both are fitted: the drawn sample has the mean that was asked for, whatever the seed and the limits,
so that two seeds differ in their mix and not in their load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist
from typing import Protocol

_FIT_STEPS = 60  # halvings of the interval that holds the scale: beyond a double's precision


class Lengths(Protocol):
    """A distribution of lengths in tokens."""

    def sample(self, rng: Random, limits: Sequence[int]) -> list[int]:
        """Draw one length for each limit, in [1, limit]."""
        ...


@dataclass(frozen=True)
class Constant:
    """Every length is `value`."""

    value: int

    def __post_init__(self) -> None:
        _at_least("value", self.value, 1)

    def sample(self, rng: Random, limits: Sequence[int]) -> list[int]:
        """`value`, cut to each limit."""
        return [min(self.value, limit) for limit in limits]


@dataclass(frozen=True)
class Uniform:
    """Every length from `low` to `high`, both included, is equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _at_least("low", self.low, 1)
        _at_least("high", self.high, self.low)

    def sample(self, rng: Random, limits: Sequence[int]) -> list[int]:
        """One draw for each limit, cut to it."""
        span = self.high - self.low + 1
        return [min(self.low + int(rng.random() * span), limit) for limit in limits]


@dataclass(frozen=True)
class Exponential:
    """Many short, few long; the mean says it all (the standard deviation equals it)."""

    mean: float

    def __post_init__(self) -> None:
        _at_least("mean", self.mean, 1)

    def sample(self, rng: Random, limits: Sequence[int]) -> list[int]:
        """One draw for each limit, fitted to the mean."""
        return fit_to_mean([-math.log1p(-rng.random()) for _ in limits], self.mean, limits)


@dataclass(frozen=True)
class LogNormal:
    """The usual shape of measured lengths; `cv` is the standard deviation divided by the mean."""

    mean: float
    cv: float = 1.0

    def __post_init__(self) -> None:
        _at_least("mean", self.mean, 1)
        if not 0 < self.cv <= 10:
            raise ValueError(f"cv must be in (0, 10], not {self.cv!r}")

    def sample(self, rng: Random, limits: Sequence[int]) -> list[int]:
        """One draw for each limit, fitted to the mean."""
        normal, sigma = NormalDist(), math.sqrt(math.log1p(self.cv**2))
        # 1 - random() lies in (0, 1], and inv_cdf wants (0, 1): the upper end is moved in by the smallest step
        draws = [normal.inv_cdf(min(1 - rng.random(), 1 - 2**-53)) for _ in limits]
        return fit_to_mean([math.exp(sigma * z) for z in draws], self.mean, limits)


def fit_to_mean(shape: Sequence[float], mean: float, limits: Sequence[int]) -> list[int]:
    """Scale positive numbers so that, rounded and cut to [1, limit], their mean is `mean` (to about 1 / len(shape)).

    Raises:
        ValueError: the limits are too small for such a mean.
    """
    if not shape:
        return []
    if mean > sum(limits) / len(limits):
        raise ValueError(
            f"a mean length of {mean:g} tokens does not fit, with room for {sum(limits) / len(limits):g} on average; "
            "raise max_model_len, or ask for shorter requests"
        )
    low, high = 0.0, max(limits) / max(min(shape), 1e-12)  # at `high` every length is at its limit
    for _ in range(_FIT_STEPS):
        middle = (low + high) / 2
        if sum(_scaled(shape, middle, limits)) < mean * len(shape):
            low = middle
        else:
            high = middle
    return _scaled(shape, high, limits)


def _scaled(shape: Sequence[float], scale: float, limits: Sequence[int]) -> list[int]:
    return [min(max(1, round(scale * x)), limit) for x, limit in zip(shape, limits, strict=True)]


def _at_least(name: str, value: float, low: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= low):
        raise ValueError(f"{name} must be a number of at least {low}, not {value!r}")
