"""Exercise 10.5: Log-probabilities. (implement, about 20 minutes)

What did the model itself think of the token that was drawn, and what would have been more likely?
From the raw logits [R, V], before temperature, penalties or any cut, tell for each row:

- the log-probability of its chosen token, first in the lists,
- then of the row's `num_logprobs` most likely tokens, the likeliest first (0: none, -1: all, more than V: all),
- and the rank of the chosen token: 1 + how many tokens are strictly more likely.

The chosen token appears a second time if it is among the most likely. Log-probabilities are natural
logarithms of a softmax. Logits may be as large as 10,000 or in half precision; the results are
floats all the same, and never minus infinity for a finite logit.

Check: python -m minivllm.course check 10.5     (or: python -m pytest exercises/ch10_sampling/logprobs.py)
Stuck: python -m minivllm.course hint 10.5
"""

from __future__ import annotations

import numpy as np
import torch
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model thought of one position: the chosen token first, then the most likely ones."""

    token_ids: list[int]
    logprobs: list[float]
    rank: int  # of the chosen token, 1 = the most likely


def gather_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_logprobs: np.ndarray
) -> list[TokenLogprobs]:
    """Log-probabilities of chosen and most likely tokens.

    Args:
        logits: [R, V] raw.
        token_ids: [R] the chosen token of each row.
        num_logprobs: [R] how many of the most likely tokens each row wants; 0 = only the chosen one, -1 = all.

    Returns:
        One entry for each row; the chosen token comes first, and again among the most likely if it is one of them.
    """
    raise NotImplementedError("exercise 10.5: gather_logprobs")
