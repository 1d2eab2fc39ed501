"""The three attention kernels against the naive oracle: random tables and lengths, unused slots full of NaN.

Numbers too large for a wrong soft cap or scale to hide, and a cache in the query's type or a smaller one.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivllm.kernels import varlen_attention
from minivllm.kernels._triton import HAS_TRITON
from minivllm.kernels.paged_attention import paged_attention_triton
from minivllm.kernels.paged_attention_split_kv import choose_num_splits, paged_attention_split_kv_triton
from minivllm.kernels.varlen_attention import varlen_attention_triton

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")

HEAD_SIZES = [64, 80, 96, 128, 192, 256]
BLOCK_SIZES = [8, 16, 32, 64]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EIGHT_BITS = [torch.float8_e4m3fn, torch.float8_e5m2]


@st.composite
def context_lens(draw, block_size):
    """Around the borders of a block, or anywhere."""
    border = block_size * draw(st.integers(1, 3))
    return draw(st.sampled_from([1, border - 1, border, border + 1]) | st.integers(1, 150))


@st.composite
def cases(draw, max_new):
    """(lens, the other arguments of make_batch, window and soft cap)."""
    block_size = draw(st.sampled_from(BLOCK_SIZES))
    lens = []
    for _ in range(draw(st.integers(1, 3))):
        total = draw(context_lens(block_size))
        new = draw(st.integers(1, min(total, max_new)))
        lens.append((new, total - new))
    shape = {
        "block_size": block_size,
        "kv_heads": draw(st.integers(1, 3)),
        "groups": draw(st.sampled_from([1, 2, 3, 5, 8])),
        "head_size": draw(st.sampled_from(HEAD_SIZES)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 2**16)),
        "cache_dtype": draw(st.sampled_from([None, None, *EIGHT_BITS])),
    }
    options = {
        "window": draw(st.none() | st.integers(1, 70)),
        "soft_cap": draw(st.sampled_from([None, None, 0.7, 3.0])),
    }
    return lens, shape, options


def decode(batch, guarded, **options):
    with guarded():
        return paged_attention_triton(
            batch.query,
            *batch.caches,
            batch.metadata.block_tables,
            batch.metadata.seq_lens,
            scale=batch.scale,
            **options,
        )


def split(batch, guarded, num_splits, **options):
    with guarded():
        return paged_attention_split_kv_triton(
            batch.query,
            *batch.caches,
            batch.metadata.block_tables,
            batch.metadata.seq_lens,
            num_splits=num_splits,
            scale=batch.scale,
            **options,
        )


def varlen(batch, guarded, **options):
    meta = batch.metadata
    with guarded():
        return varlen_attention_triton(
            batch.query,
            *batch.caches,
            meta.query_start_loc,
            meta.seq_lens,
            meta.block_tables,
            scale=batch.scale,
            **options,
        )


ODD = (
    [(1, 0), (1, 14), (1, 15), (1, 16)],
    {"block_size": 16, "kv_heads": 3, "groups": 3, "head_size": 80},
    {},
)


@settings(max_examples=12)
@given(cases(max_new=1))
@example(ODD)
def test_decode_equals_the_oracle(make_batch, guarded, case):
    lens, shape, options = case
    batch = make_batch(lens, **shape)
    batch.check(decode(batch, guarded, **options), **options)


@settings(max_examples=7)
@given(cases(max_new=1), st.sampled_from([2, 4, 16]))
@example(ODD, 8)
def test_split_kv_equals_the_oracle(make_batch, guarded, case, num_splits):
    lens, shape, options = case
    batch = make_batch(lens, **shape)
    batch.check(split(batch, guarded, num_splits, **options), **options)


@settings(max_examples=12)
@given(cases(max_new=60))
@example(([(1, 0), (17, 3), (1, 40), (70, 0), (2, 15)], {"block_size": 8, "groups": 3, "head_size": 96}, {}))
@example(([(40, 0), (1, 99)], {"block_size": 16, "groups": 1, "head_size": 64}, {"window": 9}))
def test_varlen_equals_the_oracle(make_batch, guarded, case):
    lens, shape, options = case
    batch = make_batch(lens, **shape)
    batch.check(varlen(batch, guarded, **options), **options)


@pytest.mark.parametrize("groups", [3, 5, 8])
def test_a_tile_writes_its_own_tokens_only(make_batch, guarded, monkeypatch, groups):
    """Only the first tile is run; where rows are left over, they belong to nobody, not to the next tile's tokens."""

    class FirstTile:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return self.kernel[(1, grid[1])]

    monkeypatch.setattr(
        varlen_attention, "_varlen_attention_kernel", FirstTile(varlen_attention._varlen_attention_kernel)
    )
    batch = make_batch([(60, 3)], groups=groups)
    got, mine = varlen(batch, guarded).cpu(), 64 // groups
    torch.testing.assert_close(got[:mine], batch.oracle()[:mine], atol=5e-6, rtol=2e-5)
    assert (got[mine:] == 0).all()


@pytest.mark.parametrize("block_size", [1, 5, 24])
def test_a_block_size_need_not_be_a_power_of_two(make_batch, guarded, block_size):
    batch = make_batch([(3, 4), (1, 30)], block_size=block_size)
    batch.check(varlen(batch, guarded))


EIGHT_BIT_SHAPES = [
    {"kv_heads": 1, "groups": 3, "head_size": 80, "block_size": 8},
    {"kv_heads": 1, "groups": 1, "head_size": 256, "block_size": 16},
    {"kv_heads": 2, "groups": 2, "head_size": 96, "block_size": 32},
]


@pytest.mark.parametrize("run", [decode, lambda *a, **k: split(*a, 2, **k), varlen])
@pytest.mark.parametrize("cache_dtype", EIGHT_BITS)
def test_a_cache_in_8_bits(make_batch, guarded, run, cache_dtype):
    """Against the oracle on what the cache holds, within the rounding of the query's type."""
    for dtype, shape in zip(DTYPES, EIGHT_BIT_SHAPES, strict=True):
        batch = make_batch([(1, 0), (1, 15), (1, 66)], dtype=dtype, cache_dtype=cache_dtype, **shape)
        batch.check(run(batch, guarded, window=40, soft_cap=3.0), window=40, soft_cap=3.0)


@pytest.mark.parametrize("run", [decode, lambda *a, **k: split(*a, 4, **k), varlen])
@pytest.mark.parametrize("window", [None, 20])
def test_soft_cap(make_batch, guarded, run, window):
    """Small enough a cap to bend the scores; without it the result must differ."""
    batch = make_batch([(1, 36), (1, 99)])
    got = run(batch, guarded, soft_cap=0.5, window=window)
    batch.check(got, soft_cap=0.5, window=window)
    assert not torch.allclose(got.cpu(), batch.oracle(window=window), atol=1e-3)


@pytest.mark.parametrize("run", [decode, lambda *a, **k: split(*a, 4, **k), varlen])
def test_blocks_behind_the_window_may_be_gone(make_batch, guarded, run):
    batch = make_batch([(1, 61), (1, 45)], block_size=8)
    expected = batch.oracle(window=6)
    batch.metadata.block_tables[0, : (62 - 6) // 8] = 0  # the null block, full of NaN
    batch.metadata.block_tables[1, : (46 - 6) // 8] = 0
    got = run(batch, guarded, window=6)
    torch.testing.assert_close(got.cpu(), expected, atol=5e-6, rtol=2e-5)


def test_padding_requests_and_padding_tokens_get_zeros(make_batch, guarded):
    batch = make_batch([(1, 8), (1, 30)])
    expected = batch.oracle()
    batch.metadata.seq_lens[1] = 0
    for got in (decode(batch, guarded), split(batch, guarded, 4)):
        torch.testing.assert_close(got[0].cpu(), expected[0], atol=5e-6, rtol=2e-5)
        assert (got[1] == 0).all()
    batch = make_batch([(3, 4), (5, 9)])
    expected = batch.oracle()
    padded = torch.cat((batch.query, torch.ones_like(batch.query)))
    with_token_less = replace(
        batch.metadata,
        query_start_loc=torch.tensor([0, 3, 8, 8], dtype=torch.int32, device=padded.device),
        seq_lens=torch.tensor([7, 14, 0], dtype=torch.int32, device=padded.device),
        block_tables=torch.cat((batch.metadata.block_tables, batch.metadata.block_tables[:1] * 0)),
    )
    got = varlen(replace(batch, query=padded, metadata=with_token_less), guarded)
    torch.testing.assert_close(got[:8].cpu(), expected, atol=5e-6, rtol=2e-5)
    assert (got[8:] == 0).all()


@pytest.mark.parametrize(
    ("num_programs", "max_seq_len", "num_processors", "expected"),
    [
        (8, 100, 132, 1),  # too short to cut
        (8, 600, 132, 2),  # two pieces of at least 256
        (8, 32768, 132, 32),  # 2 * 132 / 8 = 33 pieces would fill it
        (64, 32768, 132, 8),  # 2 * 132 / 64 = 4.1
        (1024, 32768, 132, 1),  # enough programs as it is
        (1, 10**6, 1, 2),
    ],
)
def test_contexts_are_cut_only_where_programs_are_missing(
    num_programs, max_seq_len, num_processors, expected
):
    assert choose_num_splits(num_programs, max_seq_len, num_processors) == expected
