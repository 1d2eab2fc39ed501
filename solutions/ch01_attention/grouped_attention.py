"""Exercise 1.3: Many heads, fewer kv heads."""

from __future__ import annotations

import torch
from torch import Tensor

from minivllm.course.extra.ch01_attention import causal_attention


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
