"""Exercise 1.2: Causal attention, one head."""

from __future__ import annotations

import math
import torch
from torch import Tensor


def causal_weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """How much each token of a text looks at each token, in one head.

    Args:
        query: [T, D], a row for each token.
        key: [T, D], likewise.
        scale: factor on the scores, usually D ** -0.5.

    Returns:
        [T, T]: row t holds the weights of token t. They are 0 behind the diagonal and sum to 1.
    """
    scores = query @ key.T * scale  # [T, T]
    future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)  # True where the key comes later
    return scores.masked_fill(future, -math.inf).softmax(dim=-1)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """What each token of a text gathers from the tokens up to its own, in one head.

    Args:
        query: [T, D].
        key: [T, D].
        value: [T, D].
        scale: factor on the scores.

    Returns:
        [T, D]: row t is a mean of the values, weighted by row t of `causal_weights`.
    """
    return causal_weights(query, key, scale) @ value
