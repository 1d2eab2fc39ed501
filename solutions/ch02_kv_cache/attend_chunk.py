"""Exercise 2.3: Attention of a chunk."""

from __future__ import annotations

import math
import torch
from torch import Tensor


def hidden_keys(num_new: int, num_tokens: int) -> Tensor:
    """What the last `num_new` of `num_tokens` tokens may not see: [T, S], True where a key comes after the query.

    Row 0 is the first of the new tokens. It stands at position num_tokens - num_new, not at 0.
    """
    return torch.ones(num_new, num_tokens, dtype=torch.bool).triu(diagonal=num_tokens - num_new + 1)


def attend_chunk(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of the last T of S tokens, in all heads.

    Args:
        query: [T, H, D], of the new tokens.
        key: [S, K, D], of all tokens; the last one belongs to the last query. Query head h reads kv head h // (H // K).
        value: [S, K, D], likewise.
        scale: factor on the scores.

    Returns:
        [T, H, D].
    """
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))  # [S, H, D]
    scores = torch.einsum("thd,shd->hts", query, key) * scale  # [H, T, S]
    scores = scores.masked_fill(hidden_keys(len(query), len(key)), -math.inf)
    return torch.einsum("hts,shd->thd", scores.softmax(dim=-1), value)
