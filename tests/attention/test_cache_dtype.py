"""A cache in a smaller type than the model's: attention in torch against the oracle, and moving without rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.attention.cache_dtype import from_cache, to_cache
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.attention.naive import dense_causal_attention, naive_attention
from minivllm.attention.paged import copy_blocks, paged_attention, reshape_and_cache
from minivllm.worker.kv_cache import move_blocks

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
STORED = [E4M3, E5M2, torch.bfloat16, torch.float16]


def all_codes(num_blocks, dtype):
    """A cache [N, 4, 2, 32] in which every bit pattern occurs, NaN and infinity included."""
    codes = torch.arange(num_blocks * 256, dtype=torch.int32).remainder(251).to(torch.uint8)
    return codes.view(dtype).view(num_blocks, 4, 2, 32)


def bits(tensor):
    return tensor.view(torch.uint8)


@settings(max_examples=25)
@given(
    lens=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 20)), min_size=1, max_size=4),
    block_size=st.integers(1, 9),
    stored=st.sampled_from(STORED),
    window=st.none() | st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_attention_equals_dense_attention_over_keys_and_values_that_were_rounded_once(
    lens, block_size, stored, window, seed
):
    """Written through the cache and attended by torch and by the oracle; unused slots hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    seq_lens = [new + old for new, old in lens]
    needed = [-(-n // block_size) for n in seq_lens]
    order = (torch.randperm(sum(needed) + 2, generator=generator) + 1).tolist()
    tables = [[order.pop() for _ in range(n)] for n in needed]
    cache = LayerKVCache(
        *(torch.full((sum(needed) + 3, block_size, 2, 6), float("nan"), dtype=stored) for _ in range(2))
    )
    whole = AttentionMetadata.from_lists(seq_lens, seq_lens, tables, block_size)
    key, value = torch.randn(2, sum(seq_lens), 2, 6, generator=generator) * 3
    reshape_and_cache(key, value, cache, whole.slot_mapping)
    metadata = AttentionMetadata.from_lists([new for new, _ in lens], seq_lens, tables, block_size)
    query = torch.randn(sum(new for new, _ in lens), 4, 6, generator=generator)
    options = {"scale": 0.4, "window": window}
    expected = [
        dense_causal_attention(q, k.to(stored).float(), v.to(stored).float(), **options)
        for q, k, v in zip(
            query.split([new for new, _ in lens]), key.split(seq_lens), value.split(seq_lens), strict=True
        )
    ]
    for attend in (paged_attention, naive_attention):
        got = attend(query, cache, metadata, **options)
        torch.testing.assert_close(got, torch.cat(expected), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("stored", [E4M3, E5M2, torch.float16])
def test_what_is_too_large_becomes_the_largest_number(stored):
    largest = {E4M3: 448.0, E5M2: 57344.0, torch.float16: 65504.0}[stored]
    x = torch.tensor([largest, 1e6, float("inf"), -1e6, float("-inf"), 0.0, float("nan")])
    got = from_cache(to_cache(x, stored), torch.float32)
    assert got[:6].tolist() == [largest, largest, largest, -largest, -largest, 0.0] and got[6].isnan()


def test_a_cache_in_the_models_type_is_written_and_read_as_it_is():
    x = torch.tensor([1e30, float("inf"), float("nan")])
    assert to_cache(x, torch.float32) is x and from_cache(x, torch.float32) is x


@pytest.mark.parametrize("stored", [E4M3, E5M2])
def test_copying_and_swapping_move_every_bit_pattern_as_it_is(stored):
    layer = LayerKVCache(all_codes(6, stored), all_codes(6, stored).flip(0).contiguous())
    before = LayerKVCache(*(bits(tensor).clone() for tensor in layer))
    copy_blocks([layer], torch.tensor([[1, 2], [2, 3]]))
    for tensor, was in zip(layer, before, strict=True):
        assert torch.equal(bits(tensor), was[[0, 1, 1, 2, 4, 5]])
    swap = LayerKVCache(*(torch.zeros(3, 4, 2, 32).to(stored) for _ in range(2)))
    move_blocks([layer], [swap], [(4, 2), (5, 1)])
    for tensor, was in zip(swap, before, strict=True):
        assert torch.equal(bits(tensor)[1:], was[[5, 4]]) and not bits(tensor)[0].any()
