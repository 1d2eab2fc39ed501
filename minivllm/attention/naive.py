"""Attention as the textbook writes it, one request, one head and one query at a time. The oracle, not the
engine.

Slow on purpose: every line can be checked against softmax(q k^T * scale) v (Vaswani et al. 2017, section
3.2.1) by eye, and it shares no code with the fast path that is tested against it.
"""

import torch
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache


def attend_one(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, soft_cap: float | None = None
) -> Tensor:
    """One query [D] looks at keys [S, D] and takes a weighted mean of values [S, D] -> [D], in float32."""
    scores = (keys.float() * query.float()).sum(-1) * scale  # [S]
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    weights = torch.exp(scores - scores.max())  # the largest score becomes exp(0): nothing overflows
    weights = weights / weights.sum()
    return (weights[:, None] * values.float()).sum(0)


def dense_causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Causal attention of one whole sequence, without any cache.

    Args:
        query: [T, H, D]; the last token stands at the last key's position (T <= S).
        key: [S, K, D]; query head h reads kv head h // (H // K).
        value: [S, K, D].
        scale: factor on the scores, usually D ** -0.5.
        window: how many of the latest tokens a token sees, itself included; None: all.
        soft_cap: scores become soft_cap * tanh(scores / soft_cap), as in Gemma 2; None: they stay.

    Returns:
        [T, H, D] in the query's dtype.
    """
    num_tokens, num_heads, _ = query.shape
    context_len, num_kv_heads, _ = key.shape
    out = torch.empty_like(query)
    for t in range(num_tokens):
        last = context_len - num_tokens + t
        first = 0 if window is None else max(0, last - window + 1)
        for h in range(num_heads):
            kv_head = h // (num_heads // num_kv_heads)
            seen = slice(first, last + 1)
            out[t, h] = attend_one(query[t, h], key[seen, kv_head], value[seen, kv_head], scale, soft_cap)
    return out


def gather_context(cache: Tensor, block_table: Tensor, seq_len: int) -> Tensor:
    """Collect one request's context from a paged cache, token by token: [N, B, K, D] -> [seq_len, K, D], float32."""
    block_size = cache.shape[1]
    return torch.stack(
        [cache[int(block_table[p // block_size]), p % block_size].float() for p in range(seq_len)]
    )


def naive_attention(
    query: Tensor,
    kv_cache: LayerKVCache,
    metadata: AttentionMetadata,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Attention of a flat batch over a paged cache, which already holds this step's k and v: [T, H, D] -> same.

    Tokens beyond the last request (padding) get zeros.
    """
    out = torch.zeros_like(query)
    starts = metadata.query_start_loc.tolist()
    for r, seq_len in enumerate(metadata.seq_lens.tolist()):
        tokens = slice(starts[r], starts[r + 1])
        if starts[r] == starts[r + 1]:
            continue
        keys = gather_context(kv_cache.key, metadata.block_tables[r], seq_len)
        values = gather_context(kv_cache.value, metadata.block_tables[r], seq_len)
        out[tokens] = dense_causal_attention(
            query[tokens], keys, values, scale=scale, window=window, soft_cap=soft_cap
        )
    return out
