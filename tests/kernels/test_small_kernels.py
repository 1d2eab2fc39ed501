"""Writing to the cache, norms, rotation and activation: each kernel against the definition, written out in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm import ops
from minivllm.attention.metadata import LayerKVCache
from minivllm.kernels._triton import HAS_TRITON
from minivllm.kernels.reshape_and_cache import reshape_and_cache_triton
from minivllm.kernels.rms_norm import add_rms_norm_triton, rms_norm_triton
from minivllm.kernels.rotary import rotary_triton
from minivllm.kernels.silu_and_mul import silu_and_mul_triton

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")

dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
seeds = st.integers(0, 2**16)


def randn(seed, *shape, dtype, device):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def assert_within_rounding(got, expected, roundings=3):
    """expected in float64; each rounding to got's type may err by eps / 2 of the largest value."""
    error = (got.double() - expected).abs().max()
    assert error <= roundings * torch.finfo(got.dtype).eps * expected.abs().max() + 1e-12


@settings(max_examples=20)
@given(
    tokens=st.integers(1, 6),
    kv_heads=st.integers(1, 3),
    head_size=st.sampled_from([3, 64, 80, 96, 128, 256]),
    block_size=st.sampled_from([1, 8, 16, 24, 32, 64]),
    dtype=dtypes,
    stored=st.sampled_from([None, torch.float8_e4m3fn, torch.float8_e5m2]),
    data=st.data(),
)
def test_writing_touches_the_named_slots_only(
    device, tokens, kv_heads, head_size, block_size, dtype, stored, data
):
    shape = (5, block_size, kv_heads, head_size)
    cache = LayerKVCache(*(torch.full(shape, 7.0, dtype=stored or dtype, device=device) for _ in range(2)))
    slots = data.draw(st.permutations(range(5 * block_size)))[:tokens]
    tokens = len(slots)
    key = randn(1, tokens, kv_heads + 2, head_size, dtype=dtype, device=device)[
        :, 1:-1
    ]  # pieces of wider rows,
    value = randn(2, tokens, kv_heads + 3, head_size, dtype=dtype, device=device)[:, 3:]  # not equally wide
    reshape_and_cache_triton(key, value, *cache, torch.tensor(slots, device=device))
    for tensor, new in zip(cache, (key, value), strict=True):
        rows = tensor.float().flatten(0, 1)
        for token, slot in enumerate(slots):
            assert torch.equal(rows[slot], new[token].to(tensor.dtype).float())
        untouched = [slot for slot in range(5 * block_size) if slot not in slots]
        assert (rows[untouched] == 7).all()


def normed(x, weight, eps):
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@settings(max_examples=15)
@given(
    tokens=st.integers(1, 4),
    heads=st.integers(1, 5),
    size=st.sampled_from([1, 80, 256]),
    dtype=dtypes,
    seed=seeds,
)
def test_rms_norm_of_every_head(device, guarded, tokens, heads, size, dtype, seed):
    x = randn(seed, tokens, heads + 2, size, dtype=dtype, device=device)[
        :, 1:-1
    ]  # a piece of something wider
    weight = randn(seed + 1, heads, size, dtype=dtype, device=device)
    with guarded():
        got = rms_norm_triton(x, weight, 1e-5)
    assert got.is_contiguous() and got.dtype == dtype
    assert_within_rounding(got, normed(x, weight, 1e-5))
    if dtype == torch.float32:
        torch.testing.assert_close(got, ops.rms_norm(x, weight, 1e-5))


@settings(max_examples=15)
@given(tokens=st.integers(1, 4), size=st.sampled_from([1, 96, 1000]), dtype=dtypes, seed=seeds)
def test_add_and_rms_norm(device, guarded, tokens, size, dtype, seed):
    x = randn(seed, tokens, size, dtype=dtype, device=device)
    residual = randn(seed + 2, tokens, 2 * size, dtype=dtype, device=device)[:, :size]
    weight, before = randn(seed + 1, size, dtype=dtype, device=device), residual.clone()
    with guarded():
        got, stream = add_rms_norm_triton(x, residual, weight, 1e-6)
    assert torch.equal(residual, before)
    assert_within_rounding(
        stream, x.double() + residual.double(), 1
    )  # interpreted bfloat16 is cut off, not rounded
    assert dtype != torch.float32 or torch.equal(stream, x + residual)
    assert_within_rounding(got, normed(stream, weight, 1e-6))


@settings(max_examples=15)
@given(
    tokens=st.integers(1, 4),
    heads=st.integers(1, 4),
    head_size=st.sampled_from([2, 64, 80, 96, 128, 256]),
    dtype=dtypes,
    seed=seeds,
)
def test_rotation_is_the_multiplication_of_complex_numbers(device, tokens, heads, head_size, dtype, seed):
    """(a + bi) times (cos + i sin), for every pair (a, b)."""
    angles = randn(seed, tokens, 1, head_size // 2, dtype=torch.float32, device=device)
    table = torch.cat((angles.cos(), angles.cos(), -angles.sin(), angles.sin()), -1).to(dtype)
    cos, sin = table.chunk(2, -1)
    whole = randn(seed + 1, tokens, heads + 1, head_size, dtype=dtype, device=device)
    before = whole.clone()
    x = whole[:, :heads]
    pairs = torch.complex(*before[:, :heads].double().chunk(2, -1))
    factors = torch.complex(cos[..., : head_size // 2].double(), sin[..., head_size // 2 :].double())
    turned = pairs * factors
    by_torch = ops.rotary(before[:, :heads], cos, sin)
    got = rotary_triton(x, cos, sin)
    assert got.data_ptr() == whole.data_ptr() and torch.equal(whole[:, heads:], before[:, heads:])
    for result in (got, by_torch):
        assert_within_rounding(result, torch.cat((turned.real, turned.imag), -1))


@settings(max_examples=15)
@given(tokens=st.integers(1, 4), size=st.sampled_from([1, 100, 1024, 1025]), dtype=dtypes, seed=seeds)
def test_silu_and_mul(device, guarded, tokens, size, dtype, seed):
    x = randn(seed, tokens, 2 * size, dtype=dtype, device=device)
    gate, up = x.double().chunk(2, -1)
    with guarded():
        got = silu_and_mul_triton(x)
    assert_within_rounding(got, gate / (1 + torch.exp(-gate)) * up)


@pytest.mark.parametrize("kernel", ["rms_norm", "silu_and_mul"])
def test_numbers_are_rounded_where_the_torch_form_rounds_them(device, kernel):
    """The norm before its weight, the gate before the product: rounded only once, many numbers would be others."""
    x, weight = (randn(seed, 4, 512, dtype=torch.float16, device=device) for seed in (1, 2))
    if kernel == "rms_norm":
        got = torch.cat([rms_norm_triton(row[None], w, 1e-6) for row, w in zip(x, weight, strict=True)])
        first = normed(x, torch.ones_like(weight), 1e-6)
    else:
        got, gate = silu_and_mul_triton(torch.cat((x, weight), -1)), x.double()
        first = gate / (1 + torch.exp(-gate))
    rounded_twice = (first.half().double() * weight.double()).half()
    rounded_once = (first * weight.double()).half()
    assert (got == rounded_twice).double().mean() > 0.99 > 0.9 > (got == rounded_once).double().mean()
