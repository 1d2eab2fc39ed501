"""Causal attention as three lines of linear algebra: of one head, then of all heads, some of which share keys.

The engine's oracle, minivllm/attention/naive.py, computes the same one query at a time.
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


def kv_head_of(query_head: int, num_heads: int, num_kv_heads: int) -> int:
    """Which kv head a query head reads. H is a multiple of K, and neighbours share: the first H / K read kv head 0."""
    return query_head // (num_heads // num_kv_heads)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention in all heads of a layer.

    Args:
        query: [T, H, D].
        key: [T, K, D]; query head h reads kv head `kv_head_of(h, H, K)`.
        value: [T, K, D], likewise.
        scale: factor on the scores.

    Returns:
        [T, H, D].
    """
    num_heads, num_kv_heads = query.shape[1], key.shape[1]
    heads = []
    for head in range(num_heads):
        kv_head = kv_head_of(head, num_heads, num_kv_heads)
        heads.append(causal_attention(query[:, head], key[:, kv_head], value[:, kv_head], scale))
    return torch.stack(heads, dim=1)  # [T, H, D]
