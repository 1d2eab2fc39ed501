"""The C++ kernels: attention against the naive oracle, small operations against torch in float64."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivllm import ops
from minivllm.kernels import cpu_ops

pytestmark = pytest.mark.skipif(not ops.has_cpp(), reason="the C++ kernels cannot be built here")


@pytest.fixture(autouse=True)
def on_a_cpu(device):
    if device != "cpu":
        pytest.skip("the batches lie on a GPU")


@st.composite
def cases(draw):
    """(lens, the other arguments of make_batch, window): tiles hold 16 to 64 positions, items 64 rows."""
    lens = []
    for _ in range(draw(st.integers(1, 4))):
        total = draw(st.sampled_from([1, 15, 16, 17, 63, 64, 65, 128, 129]) | st.integers(1, 200))
        new = draw(st.just(1) | st.integers(1, total))
        lens.append((new, total - new))
    shape = {
        "block_size": draw(st.sampled_from([1, 3, 8, 16, 32])),
        "kv_heads": draw(st.integers(1, 3)),
        "groups": draw(st.sampled_from([1, 2, 3, 4, 5, 8, 70])),
        "head_size": draw(st.sampled_from([2, 5, 16, 20, 32, 64, 80, 128])),
        "dtype": draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16])),
        "seed": draw(st.integers(0, 2**16)),
    }
    return lens, shape, draw(st.none() | st.integers(1, 70))


def attend(batch, **options):
    m = batch.metadata
    return cpu_ops.paged_attention_cpp(
        batch.query,
        *batch.caches,
        m.query_start_loc,
        m.seq_lens,
        m.block_tables,
        scale=batch.scale,
        **options,
    )


@settings(max_examples=40, deadline=None)
@given(cases())
@example(([(70, 0), (1, 99), (17, 3)], {"block_size": 16, "groups": 1, "head_size": 64}, 9))
def test_attention_equals_the_oracle(make_batch, case):
    lens, shape, window = case
    batch = make_batch(lens, **shape)
    batch.check(attend(batch, window=window), window=window)


@st.composite
def families(draw):
    """(lens, block size, [(child, parent, blocks)]): requests whose tables begin as an earlier one's."""
    total = st.sampled_from([63, 64, 65, 128, 200]) | st.integers(1, 250)
    lens = []
    for length in draw(st.lists(total, min_size=2, max_size=9)):
        new = draw(st.sampled_from([1, 1, 1, 2, 17, 40]))
        lens.append((min(new, length), length - min(new, length)))
    block_size = draw(st.sampled_from([1, 3, 16, 32]))
    shares = []
    for child in range(1, len(lens)):
        parent = draw(st.integers(0, child - 1))
        blocks = min(sum(lens[parent]) // block_size, -(-sum(lens[child]) // block_size))
        shares.append((child, parent, draw(st.just(blocks) | st.integers(0, blocks))))
    return lens, block_size, shares


@settings(max_examples=60, deadline=None)
@given(
    family=families(),
    groups=st.sampled_from([1, 2, 3, 8, 12]),
    head_size=st.sampled_from([5, 32, 64]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.bfloat16]),
    window=st.none() | st.integers(1, 150),
    seed=st.integers(0, 2**16),
)
@example(([(1, 199)] * 3, 16, [(1, 0, 4), (2, 0, 8)]), 3, 32, torch.float32, None, 0)
@example(([(1, 199)] * 3, 16, [(1, 0, 4), (2, 0, 8)]), 1, 32, torch.float32, None, 0)
def test_requests_that_share_blocks(make_batch, family, groups, head_size, dtype, window, seed):
    lens, block_size, shares = family
    batch = make_batch(
        lens, block_size=block_size, groups=groups, head_size=head_size, dtype=dtype, seed=seed
    )
    tables = batch.metadata.block_tables
    for child, parent, blocks in shares:
        tables[child, :blocks] = tables[parent, :blocks]
    batch.check(attend(batch, window=window), window=window)


def test_padding_gets_zeros_and_no_context_is_no_harm(make_batch):
    batch = make_batch([(2, 5), (1, 0)], groups=1)
    query = torch.cat((batch.query, torch.ones(2, 2, 64)))
    m = batch.metadata
    starts = torch.tensor([0, 2, 3, 4], dtype=torch.int32)
    tables = torch.cat((m.block_tables, torch.zeros(1, m.block_tables.shape[1], dtype=torch.int32)))
    seq_lens = torch.tensor([7, 1, 0], dtype=torch.int32)
    out = cpu_ops.paged_attention_cpp(query, *batch.caches, starts, seq_lens, tables, scale=batch.scale)
    torch.testing.assert_close(out[:3], batch.oracle(), atol=5e-6, rtol=2e-5)
    assert (out[3:] == 0).all()


def test_what_is_not_a_number_stays_visible(make_batch):
    batch = make_batch([(1, 70)], groups=1)
    batch.query[0, 0, 3] = float("nan")
    out = attend(batch)
    assert out[0, 0].isnan().all() and out[0, 1].isfinite().all()


def test_huge_scores_do_not_overflow(make_batch):
    batch = make_batch([(1, 70), (80, 0)], groups=1)
    batch.query.mul_(1e4)
    batch.check(attend(batch))


@pytest.mark.parametrize(("kv_heads", "head_size"), [(3, 64), (8, 128)])
def test_neither_threads_nor_neighbours_change_a_single_bit(make_batch, kv_heads, head_size):
    lens = [(1, 150), (40, 10), (1, 3), (90, 0)]
    batch = make_batch(lens, kv_heads=kv_heads, head_size=head_size)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(attend(batch))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    m = batch.metadata
    for request, token in ((0, 0), (2, 41)):
        alone = cpu_ops.paged_attention_cpp(
            batch.query[token : token + 1],
            *batch.caches,
            torch.tensor([0, 1], dtype=torch.int32),
            m.seq_lens[request : request + 1],
            m.block_tables[request : request + 1],
            scale=batch.scale,
        )
        assert torch.equal(alone, results[0][token : token + 1])


def test_writing_touches_the_named_slots_only():
    key_cache, value_cache = torch.zeros(2, 3, 4, 2, 5).unbind()
    qkv = torch.randn(2, 6, 5)
    key, value = qkv[:, 2:4], qkv[:, 4:]
    cpu_ops.reshape_and_cache_cpp(key, value, key_cache, value_cache, torch.tensor([6, 9]))
    for cache, new in ((key_cache, key), (value_cache, value)):
        assert torch.equal(cache[1, 2], new[0]) and torch.equal(cache[2, 1], new[1])
        assert int((cache != 0).sum()) == 2 * 2 * 5


shapes = {"tokens": st.integers(1, 70), "size": st.integers(1, 90), "seed": st.integers(0, 2**16)}


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(got, expected):
    torch.testing.assert_close(got, expected.float(), atol=2e-6, rtol=2e-5)


def normed(x, weight):
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()


@settings(max_examples=25, deadline=None)
@given(**shapes, heads=st.integers(1, 5))
def test_norms(tokens, size, seed, heads):
    x, residual, weight = (randn(n, size, seed=seed + n) for n in (tokens, tokens, 1))
    with torch.inference_mode():
        close(ops.rms_norm(x, weight[0], 1e-6), normed(x, weight[0]))
        out, stream = ops.add_rms_norm(x, residual, weight[0], 1e-6)
        assert torch.equal(stream, x + residual)
        close(out, normed(x + residual, weight[0]))
        qkv, weights = randn(tokens, heads + 2, size, seed=seed), randn(heads, size, seed=seed)
        close(ops.rms_norm(qkv[:, 1:-1], weights, 1e-6), normed(qkv[:, 1:-1], weights))


@settings(max_examples=25, deadline=None)
@given(**shapes, heads=st.integers(1, 5))
def test_rotation(tokens, size, seed, heads):
    qkv, angle = randn(tokens, heads + 1, 2 * size, seed=seed), randn(tokens, 1, size, seed=seed).double()
    x = qkv[:, :heads]
    a, b = x.double().chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    expected = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    table = torch.cat((cos, cos, -sin, sin), -1).float()
    behind = qkv[:, heads].clone()
    with torch.inference_mode():
        close(ops.rotary(x, *table.chunk(2, -1)), expected)
    assert torch.equal(qkv[:, heads], behind)


@settings(max_examples=25, deadline=None)
@given(**shapes, scale=st.sampled_from([1, 100]))
def test_gated_activation(tokens, size, seed, scale):
    x = randn(tokens, 2 * size, seed=seed) * scale
    gate, up = x.double().chunk(2, -1)
    with torch.inference_mode():
        close(ops.silu_and_mul(x), gate * gate.sigmoid() * up)


def test_gradients_and_other_types_go_to_torch():
    x = torch.randn(3, 8, requires_grad=True)
    ops.rms_norm(x, torch.ones(8), 1e-6).sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        assert ops.silu_and_mul(torch.ones(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
