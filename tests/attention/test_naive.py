"""The oracle itself, against torch's own attention and against answers known by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.attention.naive import dense_causal_attention, naive_attention


def torch_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """scaled_dot_product_attention with a mask written from the definition; [T, H, D] in and out."""
    num_tokens, context_len = len(query), len(key)
    position = torch.arange(context_len - num_tokens, context_len)[:, None]
    key_position = torch.arange(context_len)[None]
    mask = key_position <= position
    if window is not None:
        mask &= key_position > position - window
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(0, 1)


@settings(max_examples=40, deadline=None)
@given(
    new=st.integers(1, 6),
    old=st.integers(0, 9),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    head_dim=st.integers(1, 9),
    window=st.none() | st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_dense_attention_equals_torch(new, old, kv_heads, groups, head_dim, window, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(new, kv_heads * groups, head_dim, generator=generator)
    key, value = torch.randn(2, old + new, kv_heads, head_dim, generator=generator)
    got = dense_causal_attention(query, key, value, scale=0.7, window=window)
    torch.testing.assert_close(got, torch_attention(query, key, value, 0.7, window), atol=2e-6, rtol=1e-5)


def test_a_score_gap_of_ln_three_weighs_three_to_one():
    key = torch.tensor([[[0.0]], [[1.0]]])  # two keys, scores 0 and ln 3
    value = torch.tensor([[[4.0]], [[8.0]]])
    got = dense_causal_attention(torch.tensor([[[1.0]]]), key, value, scale=math.log(3))
    assert got.item() == pytest.approx((4 + 3 * 8) / 4)


def test_the_cache_is_read_through_the_block_table_and_nowhere_else():
    generator = torch.Generator().manual_seed(1)
    key, value = torch.randn(2, 5, 2, 4, generator=generator)  # 5 tokens, blocks of 2: tables 7, 3, 1
    query = torch.randn(3, 4, 4, generator=generator)  # the last 3 of them
    cache = LayerKVCache(*torch.full((2, 9, 2, 2, 4), float("nan")))
    for position, (block, offset) in enumerate([(7, 0), (7, 1), (3, 0), (3, 1), (1, 0)]):
        cache.key[block, offset], cache.value[block, offset] = key[position], value[position]
    metadata = AttentionMetadata.from_lists([3], [5], [[7, 3, 1]], 2)
    got = naive_attention(query, cache, metadata, scale=0.5)
    torch.testing.assert_close(got, dense_causal_attention(query, key, value, scale=0.5), atol=0, rtol=0)
