"""Exercise 14.3, otherwise: everything from the gaps, percentiles by counting places."""

from bisect import insort
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from statistics import fmean


@dataclass(frozen=True)
class Latencies:
    ttft: float
    e2e: float
    tpot: float | None
    gaps: tuple[float, ...]


def latencies(arrival, token_times):
    ttft = token_times[0] - arrival
    gaps = tuple(b - a for a, b in pairwise(token_times))
    return Latencies(ttft, ttft + sum(gaps), fmean(gaps) if gaps else None, gaps)


def percentile(values, percent):
    ordered = []
    for value in values:
        insort(ordered, value)
    place = percent / 100 * (len(ordered) - 1)
    low, high = ordered[floor(place)], ordered[min(ceil(place), len(ordered) - 1)]
    share = place % 1
    return low * (1 - share) + high * share


def goodput(requests, max_ttft, max_tpot):
    def is_good(one):
        return one is not None and max(one.ttft - max_ttft, (one.tpot or 0.0) - max_tpot) <= 0

    return fmean(map(is_good, requests))
