"""Exercise 14.3: Latency: TTFT, TPOT, percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Latencies:
    """One request, in seconds."""

    ttft: float  # time to first token, from arrival
    e2e: float  # from arrival to the last token
    tpot: float | None  # mean time per output token after the first; None for an answer of one token
    gaps: tuple[float, ...]  # between each two tokens (inter-token latency)


def latencies(arrival: float, token_times: Sequence[float]) -> Latencies:
    """The latencies of a request from the moments at which its tokens came, at least one, in order."""
    first, last = token_times[0], token_times[-1]
    num_more = len(token_times) - 1
    return Latencies(
        ttft=first - arrival,
        e2e=last - arrival,
        tpot=(last - first) / num_more if num_more else None,
        gaps=tuple(later - earlier for earlier, later in zip(token_times, token_times[1:], strict=False)),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` (0 to 100) percent of the values lie: at least one, in any order.

    0 gives the smallest, 100 the largest; between two values it goes in a straight line, as numpy does by default.
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def goodput(requests: Sequence[Latencies | None], max_ttft: float, max_tpot: float) -> float:
    """The share of requests, 0..1, that kept both promises, each with equality allowed; None = it failed.

    A failed request kept no promise. One token has no time per output token, so only its TTFT counts.
    """
    good = [
        one
        for one in requests
        if one is not None and one.ttft <= max_ttft and (one.tpot is None or one.tpot <= max_tpot)
    ]
    return len(good) / len(requests)
