"""Exercise 1.3: Many heads, fewer kv heads. (implement, about 15 minutes)

A layer has H query heads, each with attention of its own. In grouped-query attention there are only
K kv heads, and neighbouring query heads share one. With H = 8 and K = 4:

    query head   0  1  2  3  4  5  6  7
    kv head      0  0  1  1  2  2  3  3

`kv_head_of` is that map. `grouped_attention` runs all heads: cut one head out of the tensors, use
`causal_attention`, and put the results side by side. Yours then runs in the real model, in all of
its layers.

Check: python -m minivllm.course check 1.3     (or: python -m pytest exercises/ch01_attention/grouped_attention.py)
Stuck: python -m minivllm.course hint 1.3
"""

from __future__ import annotations

import torch
from torch import Tensor

from minivllm.course.extra.ch01_attention import causal_attention


def kv_head_of(query_head: int, num_heads: int, num_kv_heads: int) -> int:
    """Which kv head a query head reads. H is a multiple of K, and neighbours share: the first H / K read kv head 0."""
    raise NotImplementedError("exercise 1.3: kv_head_of")


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
    raise NotImplementedError("exercise 1.3: grouped_attention")
