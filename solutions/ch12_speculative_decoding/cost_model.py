"""Exercise 12.4: Predict the speed-up."""

from __future__ import annotations


def tokens_per_step(agreement: float, k: int) -> float:
    """Tokens that a step with k drafts says on average, each draft being right with probability `agreement`.

    Draft i is said if it and all before it are right, and one token comes on top: 1 + a + a^2 + ... + a^k.
    """
    return sum(agreement**i for i in range(k + 1))


def speedup(agreement: float, k: int, cost: float) -> float:
    """How many times as fast as plain decoding; `cost`: of a step with k drafts, all its work included."""
    return tokens_per_step(agreement, k) / cost


def break_even(cost: float, k: int) -> float | None:
    """The agreement from which on a step with k drafts pays its cost; None if not even 1 is enough."""
    if cost > k + 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_step(middle, k) < cost else (low, middle)
    return high


def best_length(agreement: float, cost_per_draft: float, most: int) -> int:
    """How many drafts, 0 to `most`, make the fastest, if a step with k drafts costs 1 + k * cost_per_draft.

    0 = plain decoding is not beaten. Of equal ones the shortest.
    """
    return max(range(most + 1), key=lambda k: speedup(agreement, k, 1 + k * cost_per_draft))
