"""Percentiles, on plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` % of `values` lie, interpolated between neighbours (numpy's default).

    Raises:
        ValueError: no values, or a percentage outside [0, 100].
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError(
            f"percentile needs values and a percentage in [0, 100], not {len(values)} values and {percent}"
        )
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(frozen=True)
class Distribution:
    """What is told of many latencies."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """None for no values: a request with one token has no time per further token."""
        if not values:
            return None
        p50, p90, p99 = (percentile(values, percent) for percent in (50, 90, 99))
        return cls(sum(values) / len(values), p50, p90, p99, max(values))
