"""Exercise 1.2: Causal attention, one head. (implement, about 20 minutes)

Each token has a query, a key and a value, rows of D numbers. Token t compares its query with the
keys of the tokens 0 to t: a score is the sum of products of the two rows, times `scale`. Softmax
turns the scores of a row into weights that sum to 1. What the token gets is the mean of the values,
with these weights.

             key 0  key 1  key 2
    query 0    x      .      .        x = a score, . = the future, weight 0
    query 1    x      x      .
    query 2    x      x      x

`causal_weights` gives the weights, [T, T]. `causal_attention` uses them. All T rows can be had at
once: query @ key.T is a whole table of scores.

Check: python -m minivllm.course check 1.2     (or: python -m pytest exercises/ch01_attention/causal_attention.py)
Stuck: python -m minivllm.course hint 1.2
"""

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
    raise NotImplementedError("exercise 1.2: causal_weights")


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
    raise NotImplementedError("exercise 1.2: causal_attention")
