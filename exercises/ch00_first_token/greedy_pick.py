"""Exercise 0.2: Greedy pick. (implement, about 10 minutes)

The model gives a number for each token of the vocabulary, its logit: the larger, the more likely
that token comes next. A step gives R rows of V logits, a row for each request. Pick a token for
each row: the one with the largest logit. Among equals, take the lowest id, so that the same logits
always give the same token.

Yours can serve: python -m minivllm.serve --mine greedy_pick

Check: python -m minivllm.course check 0.2     (or: python -m pytest exercises/ch00_first_token/greedy_pick.py)
Stuck: python -m minivllm.course hint 0.2
"""

from __future__ import annotations

import torch


def greedy_pick(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token of each row, the one with the lowest id among equals. logits [R, V] -> [R] int64."""
    raise NotImplementedError("exercise 0.2: greedy_pick")
