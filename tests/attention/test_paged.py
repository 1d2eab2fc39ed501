"""Paged attention against the naive oracle, on random ragged batches in a cache that is NaN wherever unused."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minivllm.attention import paged
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.attention.naive import dense_causal_attention, naive_attention
from minivllm.attention.paged import build_plan, copy_blocks, paged_attention, reshape_and_cache

NAN = float("nan")


@dataclass
class Batch:
    """Random requests with their contexts written to a paged cache; the dense keys and values are kept."""

    query: Tensor  # [T, H, D]
    cache: LayerKVCache
    metadata: AttentionMetadata
    keys: list[Tensor]  # per request [S, K, D]
    values: list[Tensor]
    query_lens: list[int]
    tables: list[list[int]]


def make_batch(lens, block_size=4, kv_heads=2, groups=2, head_dim=8, seed=0, spare=3) -> Batch:
    """lens: (new tokens, earlier tokens) of each request. Blocks are disjoint and in random order; 0 is unused."""
    generator = torch.Generator().manual_seed(seed)
    seq_lens = [new + old for new, old in lens]
    needed = [-(-n // block_size) for n in seq_lens]
    num_blocks = 1 + sum(needed) + spare
    order = (torch.randperm(num_blocks - 1, generator=generator) + 1).tolist()
    tables = [[order.pop() for _ in range(n)] for n in needed]
    cache = LayerKVCache(*torch.full((2, num_blocks, block_size, kv_heads, head_dim), NAN))
    keys = [torch.randn(n, kv_heads, head_dim, generator=generator) for n in seq_lens]
    values = [torch.randn(n, kv_heads, head_dim, generator=generator) for n in seq_lens]
    for table, key, value in zip(tables, keys, values, strict=True):
        for position in range(len(key)):
            slot = table[position // block_size], position % block_size
            cache.key[slot], cache.value[slot] = key[position], value[position]
    query_lens = [new for new, _ in lens]
    query = torch.randn(sum(query_lens), kv_heads * groups, head_dim, generator=generator)
    metadata = AttentionMetadata.from_lists(query_lens, seq_lens, tables, block_size)
    return Batch(query, cache, metadata, keys, values, query_lens, tables)


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)


lengths = st.tuples(st.integers(1, 13), st.integers(0, 40))


@settings(max_examples=60, deadline=None)
@given(
    lens=st.lists(lengths | st.tuples(st.just(1), st.integers(0, 40)), min_size=1, max_size=6),
    block_size=st.integers(1, 32),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 4),
    head_dim=st.sampled_from([2, 5, 8, 16]),
    window=st.none() | st.integers(1, 30),
    max_slots=st.sampled_from([1, 20, 100, 4096]),
    similar=st.sampled_from([1, 128]),
    seed=st.integers(0, 2**16),
)
def test_paged_equals_naive(lens, block_size, kv_heads, groups, head_dim, window, max_slots, similar, seed):
    batch = make_batch(lens, block_size, kv_heads, groups, head_dim, seed)
    with pytest.MonkeyPatch.context() as patch:  # small limits: many groups
        patch.setitem(paged.MAX_GROUP_SLOTS, "cpu", max_slots)
        patch.setattr(paged, "SIMILAR_CONTEXT", similar)
        got = paged_attention(batch.query, batch.cache, batch.metadata, scale=0.4, window=window)
    assert_same(got, naive_attention(batch.query, batch.cache, batch.metadata, scale=0.4, window=window))


@settings(max_examples=25, deadline=None)
@given(
    lens=st.lists(st.integers(1, 24), min_size=1, max_size=4),
    block_size=st.integers(1, 9),
    window=st.none() | st.integers(1, 9),
    data=st.data(),
)
def test_written_in_chunks_it_equals_dense_attention(lens, block_size, window, data):
    """Prompts arrive in random pieces, several requests per step; every step writes first and then attends."""
    batch = make_batch([(n, 0) for n in lens], block_size, seed=sum(lens))
    cache = LayerKVCache(*(torch.full_like(tensor, NAN) for tensor in batch.cache))
    queries = batch.query.split(lens)
    done, results = [0] * len(lens), [[] for _ in lens]
    while any(d < n for d, n in zip(done, lens, strict=True)):
        open_ = [r for r in range(len(lens)) if done[r] < lens[r]]
        rows = data.draw(st.lists(st.sampled_from(open_), min_size=1, unique=True))
        sizes = [data.draw(st.integers(1, lens[r] - done[r])) for r in rows]
        ends = [done[r] + size for r, size in zip(rows, sizes, strict=True)]
        metadata = AttentionMetadata.from_lists(sizes, ends, [batch.tables[r] for r in rows], block_size)
        metadata = replace(metadata, plan=build_plan(metadata))
        pieces = [slice(done[r], end) for r, end in zip(rows, ends, strict=True)]
        key = torch.cat([batch.keys[r][piece] for r, piece in zip(rows, pieces, strict=True)])
        value = torch.cat([batch.values[r][piece] for r, piece in zip(rows, pieces, strict=True)])
        reshape_and_cache(key, value, cache, metadata.slot_mapping)
        query = torch.cat([queries[r][piece] for r, piece in zip(rows, pieces, strict=True)])
        out = paged_attention(query, cache, metadata, scale=0.3, window=window)
        for r, end, piece in zip(rows, ends, out.split(sizes), strict=True):
            done[r] = end
            results[r].append(piece)
    for r in range(len(lens)):
        dense = dense_causal_attention(queries[r], batch.keys[r], batch.values[r], scale=0.3, window=window)
        assert_same(torch.cat(results[r]), dense)


def test_a_long_context_does_not_pad_the_short_ones():
    batch = make_batch([(1, 999)] + [(1, 20 + i) for i in range(30)] + [(7, 3), (8, 0), (100, 0)])
    plan = build_plan(batch.metadata)
    shapes = [group.context(None, torch.float32).bias.shape for group in plan.groups]
    assert sum(rows for rows, *_ in shapes) == 34
    assert sum(rows * context for rows, _, _, context in shapes) < 1.5 * sum(map(len, batch.keys))
    assert sum(rows * queries for rows, _, queries, _ in shapes) < 2 * sum(batch.query_lens)
    assert len(plan.groups) <= 4


def test_a_group_never_gathers_more_than_its_limit(monkeypatch):
    batch = make_batch([(1, 49)] * 20)
    monkeypatch.setitem(paged.MAX_GROUP_SLOTS, "cpu", 300)
    groups = build_plan(batch.metadata).groups
    assert [len(group.seq_lens) for group in groups] == [
        5,
        5,
        5,
        5,
    ]  # even shares of at most 300 // 50 requests
    assert all(len(group.context(None, torch.float32).slots) <= 300 for group in groups)


def test_a_window_neither_gathers_nor_needs_what_slid_out_of_it():
    batch = make_batch([(2, 61), (1, 45)], block_size=4)
    expected = naive_attention(batch.query, batch.cache, batch.metadata, scale=0.5, window=6)
    gone = batch.metadata.block_tables.clone()
    gone[0, : (62 - 6) // 4] = 0  # blocks that no query sees any more, given back to the pool
    gone[1, : (46 - 6) // 4] = 0
    metadata = replace(batch.metadata, block_tables=gone)
    assert_same(paged_attention(batch.query, batch.cache, metadata, scale=0.5, window=6), expected)
    slots = [len(group.context(6, torch.float32).slots) for group in build_plan(metadata).groups]
    assert sorted(slots) == [6, 7]


def test_padding_tokens_and_padding_requests_stay_harmless():
    """A batch padded to fixed shapes: tokens no request owns get zeros, a request without context stays finite."""
    batch = make_batch([(3, 4), (1, 9)])
    expected = naive_attention(batch.query, batch.cache, batch.metadata, scale=0.5)
    batch.cache.key[0], batch.cache.value[0] = 0.0, 0.0  # the null block, where padding is written
    metadata = replace(
        batch.metadata,
        query_start_loc=torch.tensor([0, 3, 4, 5], dtype=torch.int32),
        seq_lens=torch.tensor([7, 10, 0], dtype=torch.int32),
        block_tables=torch.cat((batch.metadata.block_tables, torch.zeros(1, 3, dtype=torch.int32))),
    )
    out = paged_attention(torch.cat((batch.query, torch.ones(3, 4, 8))), batch.cache, metadata, scale=0.5)
    assert_same(out[:4], expected)
    assert out[4].isfinite().all()
    assert (out[5:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_its_rounding(dtype):
    batch = make_batch([(5, 6), (1, 30), (1, 3)])
    cache = LayerKVCache(*(tensor.to(dtype) for tensor in batch.cache))
    query = batch.query.to(dtype)
    got = paged_attention(query, cache, batch.metadata, scale=0.35)
    assert got.dtype == dtype
    widened = LayerKVCache(*(tensor.float() for tensor in cache))
    expected = naive_attention(query.float(), widened, batch.metadata, scale=0.35)
    error = (got.float() - expected).abs().max()
    assert error < 4 * torch.finfo(dtype).eps * expected.abs().max()


def test_writing_touches_the_named_slots_only():
    cache = LayerKVCache(torch.zeros(3, 4, 2, 5), torch.zeros(3, 4, 2, 5))
    key, value = torch.randn(2, 2, 2, 5)
    reshape_and_cache(key, value, cache, torch.tensor([6, 9]))
    for tensor, new in zip(cache, (key, value), strict=True):
        assert torch.equal(tensor[1, 2], new[0])
        assert torch.equal(tensor[2, 1], new[1])
        assert int((tensor != 0).sum()) == 2 * 2 * 5


def test_copies_read_every_source_before_any_write():
    caches = [LayerKVCache(torch.randn(5, 2, 1, 3), torch.randn(5, 2, 1, 3)) for _ in range(2)]
    before = [LayerKVCache(*(tensor.clone() for tensor in cache)) for cache in caches]
    copy_blocks(caches, torch.tensor([[1, 2], [2, 3], [1, 4]], dtype=torch.int32))
    for cache, old in zip(caches, before, strict=True):
        for tensor, was in zip(cache, old, strict=True):
            assert torch.equal(tensor, was[[0, 1, 1, 2, 1]])
