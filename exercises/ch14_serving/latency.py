"""Exercise 14.3: Latency: TTFT, TPOT, percentiles. (implement, about 20 minutes)

What a reader feels, in numbers: how long until the first token (TTFT), how fast the others follow
(TPOT, the mean of a request), where it stalls (the single gaps), how long all of it takes. Then
what a service may claim about many readers: a percentile, and goodput, the share of requests that
kept what was promised.

Check: python -m minivllm.course check 14.3     (or: python -m pytest exercises/ch14_serving/latency.py)
Stuck: python -m minivllm.course hint 14.3
"""

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
    raise NotImplementedError("exercise 14.3: latencies")


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` (0 to 100) percent of the values lie: at least one, in any order.

    0 gives the smallest, 100 the largest; between two values it goes in a straight line, as numpy does by default.
    """
    raise NotImplementedError("exercise 14.3: percentile")


def goodput(requests: Sequence[Latencies | None], max_ttft: float, max_tpot: float) -> float:
    """The share of requests, 0..1, that kept both promises, each with equality allowed; None = it failed.

    A failed request kept no promise. One token has no time per output token, so only its TTFT counts.
    """
    raise NotImplementedError("exercise 14.3: goodput")
