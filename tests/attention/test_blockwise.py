"""The walk over the blocks against softmax in float64 and the naive oracle; its place in the engine."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minivllm import ops
from minivllm.attention.blockwise import absorb, finish, gather_blocks, merge, new_state, paged_attention
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.attention.naive import gather_context, naive_attention


@st.composite
def batches(draw):
    """(query, cache, metadata): NaN in every slot without a token."""
    block_size, kv_heads, group = (draw(st.integers(1, n)) for n in (5, 2, 3))
    totals = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    news = [draw(st.integers(1, total)) for total in totals]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    needed = [-(-total // block_size) for total in totals]
    ids = (torch.randperm(sum(needed), generator=generator) + 1).tolist()
    tables = [[ids.pop() for _ in range(count)] for count in needed]
    keys, values = (
        torch.randn(sum(needed) + 1, block_size, kv_heads, 4, generator=generator) for _ in range(2)
    )
    for table, total in zip(tables, totals, strict=True):
        for slot in range(total, len(table) * block_size):
            for cache in (keys, values):
                cache[table[slot // block_size], slot % block_size] = float("nan")
    query = 10 * torch.randn(sum(news), kv_heads * group, 4, generator=generator)
    return query, LayerKVCache(keys, values), AttentionMetadata.from_lists(news, totals, tables, block_size)


@given(batches())
def test_the_walk_is_naive_attention(batch):
    query, cache, meta = batch
    places = meta.block_tables, meta.seq_lens, meta.query_start_loc
    found = paged_attention(query, *cache, *places, 0.5)
    torch.testing.assert_close(found, naive_attention(query, cache, meta, scale=0.5), atol=1e-5, rtol=1e-4)
    for r, seq_len in enumerate(meta.seq_lens.tolist()):
        context = gather_context(cache.key, meta.block_tables[r], seq_len)
        assert torch.equal(gather_blocks(cache.key, meta.block_tables[r], seq_len), context)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.booleans(), st.sampled_from([1, 1000]))
def test_absorbing_and_merging_give_the_softmax_of_the_whole(sizes, hide_first, large):
    generator = torch.Generator().manual_seed(sum(sizes))
    scores = large * torch.randn(2, sum(sizes), generator=generator)
    if hide_first:
        scores[0, : sizes[0]] = -torch.inf
    values = torch.randn(sum(sizes), 3, generator=generator)
    absorbed = merged = new_state(scores, 3)
    for piece, rows in zip(scores.split(sizes, 1), values.split(sizes), strict=True):
        absorbed = absorb(absorbed, piece, rows)
        merged = merge(absorb(new_state(scores, 3), piece, rows), merged)
    expected = (torch.softmax(scores.double(), 1).nan_to_num() @ values.double()).float()
    for state in (absorbed, merged):
        torch.testing.assert_close(finish(state), expected, atol=1e-5, rtol=1e-4)


def test_a_part_in_the_place_of_the_backends_attention():
    """Layers with a window, and caches in another type, stay with the backend."""
    calls = []

    def mine(*arguments):
        calls.append(len(arguments))
        return paged_attention(*arguments)

    cache = LayerKVCache(*(torch.randn(3, 4, 1, 4) for _ in range(2)))
    meta = AttentionMetadata.from_lists([2], [6], [[2, 1]], 4)
    query = torch.randn(2, 2, 4)
    plain = ops.attention_backend("torch")
    backend = ops.with_paged_attention(plain, mine)
    for window in (None, 3):
        expected = plain.attend(query, cache, meta, scale=0.5, window=window)
        torch.testing.assert_close(backend.attend(query, cache, meta, scale=0.5, window=window), expected)
    assert calls == [7] and backend.write is plain.write


@pytest.mark.parametrize("length", [1, 4, 5])
def test_a_padded_batch_has_zeros_behind_the_last_request(length):
    cache = LayerKVCache(*(torch.randn(3, 4, 1, 4) for _ in range(2)))
    meta = AttentionMetadata.from_lists([1], [length], [[1, 2]], 4)
    out = paged_attention(
        torch.randn(3, 1, 4), *cache, meta.block_tables, meta.seq_lens, meta.query_start_loc, 0.5
    )
    assert out[0].abs().sum() > 0 and not out[1:].any()
