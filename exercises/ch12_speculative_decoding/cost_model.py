"""Exercise 12.4: Predict the speed-up. (implement, about 20 minutes)

When does speculation pay? Four short functions answer that without a machine. A *plain step* is the
unit: it says one token and costs 1. A step with k drafts costs more, and says between 1 and k + 1
tokens.

`tokens_per_step`: each draft is right with probability `agreement`, and counts only if all before
it were right. `speedup`: against plain decoding, if a step costs `cost` plain steps. `break_even`:
the agreement at which a step with k drafts is exactly worth its cost: 0 if it costs at most 1, None
if not even an agreement of 1 is enough. A result within 1e-6 is exact enough. `best_length`: how
many drafts, from 0 to `most`, are the fastest, if each adds `cost_per_draft` to the cost of 1.

Check: python -m minivllm.course check 12.4     (or: python -m pytest exercises/ch12_speculative_decoding/cost_model.py)
Stuck: python -m minivllm.course hint 12.4
"""

from __future__ import annotations


def tokens_per_step(agreement: float, k: int) -> float:
    """Tokens that a step with k drafts says on average, each draft being right with probability `agreement`.

    Draft i is said if it and all before it are right, and one token comes on top: 1 + a + a^2 + ... + a^k.
    """
    raise NotImplementedError("exercise 12.4: tokens_per_step")


def speedup(agreement: float, k: int, cost: float) -> float:
    """How many times as fast as plain decoding; `cost`: of a step with k drafts, all its work included."""
    raise NotImplementedError("exercise 12.4: speedup")


def break_even(cost: float, k: int) -> float | None:
    """The agreement from which on a step with k drafts pays its cost; None if not even 1 is enough."""
    raise NotImplementedError("exercise 12.4: break_even")


def best_length(agreement: float, cost_per_draft: float, most: int) -> int:
    """How many drafts, 0 to `most`, make the fastest, if a step with k drafts costs 1 + k * cost_per_draft.

    0 = plain decoding is not beaten. Of equal ones the shortest.
    """
    raise NotImplementedError("exercise 12.4: best_length")
