"""Unpacking and multiplying: the torch twins against the formula in plain Python, the kernels against the twins."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivllm.kernels._triton import HAS_TRITON
from minivllm.kernels.awq_dequantize import awq_dequantize_torch, awq_dequantize_triton
from minivllm.kernels.awq_gemm import awq_gemm_torch, awq_gemm_triton
from minivllm.kernels.weight_only_gemm import weight_only_gemm_torch, weight_only_gemm_triton

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word, from the lowest, holds this output
HALVES = [torch.float16, torch.bfloat16]


def pack_in_python(numbers: torch.Tensor) -> torch.Tensor:
    """[rows, n] of 0 to 15 -> [rows, n / 8] int32."""
    rows = []
    for row in numbers.tolist():
        words = [sum(row[i + ORDER[n]] << (4 * n) for n in range(8)) for i in range(0, len(row), 8)]
        rows.append([word - 2**32 if word >= 2**31 else word for word in words])
    return torch.tensor(rows, dtype=torch.int32)


def make_awq(in_features, out_features, group_size, dtype, seed, device="cpu"):
    """(q [in, out], zeros [in / G, out], scales, and the packed tensors)."""
    generator = torch.Generator().manual_seed(seed)
    groups = in_features // group_size
    q = torch.randint(16, (in_features, out_features), generator=generator)
    zeros = torch.randint(16, (groups, out_features), generator=generator)
    scales = (torch.rand(groups, out_features, generator=generator) * 0.02 + 0.001).to(dtype)
    packed = [tensor.to(device) for tensor in (pack_in_python(q), pack_in_python(zeros), scales)]
    return q, zeros, scales, packed


shapes = {
    "groups": st.integers(1, 3),
    "group_size": st.sampled_from([32, 64, 128]),
    "out_words": st.integers(1, 20),
    "dtype": st.sampled_from([torch.float32, *HALVES]),
    "seed": st.integers(0, 2**16),
}


@settings(max_examples=15)
@given(**shapes)
def test_dequantized_weights_are_bit_equal_to_the_formula(device, groups, group_size, out_words, dtype, seed):
    q, zeros, scales, packed = make_awq(groups * group_size, 8 * out_words, group_size, dtype, seed, device)
    expected = torch.stack(
        [(q[i] - zeros[i // group_size]).to(dtype) * scales[i // group_size] for i in range(len(q))]
    )
    got = awq_dequantize_torch(*packed)
    assert got.dtype == dtype and torch.equal(got.cpu(), expected)


@needs_triton
@settings(max_examples=8)
@given(**shapes)
def test_the_unpacking_kernel_equals_its_twin(device, guarded, groups, group_size, out_words, dtype, seed):
    _, _, _, packed = make_awq(groups * group_size, 8 * out_words, group_size, dtype, seed, device)
    with guarded():
        got = awq_dequantize_triton(*packed)
    expected = awq_dequantize_torch(*packed)
    assert got.dtype == dtype
    if dtype == torch.bfloat16 and device == "cpu":  # the interpreter cuts bfloat16 off instead of rounding
        torch.testing.assert_close(got, expected, rtol=2**-7, atol=0)
    else:
        assert torch.equal(got, expected)


@needs_triton
@settings(max_examples=8)
@given(**shapes, num_tokens=st.sampled_from([1, 3, 16, 17, 70]))
@example(
    groups=5, group_size=128, out_words=1, dtype=torch.float32, seed=0, num_tokens=1
)  # 10 tiles for 8 programs
def test_the_fused_product_equals_unpacking_first(
    device, guarded, groups, group_size, out_words, dtype, seed, num_tokens
):
    _, _, _, packed = make_awq(groups * group_size, 8 * out_words, group_size, dtype, seed, device)
    x = torch.randn(num_tokens, groups * group_size, generator=torch.Generator().manual_seed(seed)).to(
        device, dtype
    )
    with guarded():
        got = awq_gemm_triton(x, *followed_by_nan(packed))
    exact = x.double() @ awq_dequantize_torch(*packed).double()
    assert_as_precise(got, awq_gemm_torch(x, *packed), exact)


def followed_by_nan(packed):
    """The same tensors, with scales behind whose end NaN lies: whoever reads too far is found out."""
    qweight, qzeros, scales = packed
    wider = torch.full(
        (2 * len(scales) + 4, scales.shape[1]), float("nan"), dtype=scales.dtype, device=scales.device
    )
    wider[: len(scales)] = scales
    return [*(torch.cat((t, t.repeat(4, 1)))[: len(t)] for t in (qweight, qzeros)), wider[: len(scales)]]


def assert_as_precise(got, by_torch, exact):
    """The type is x's, and the error against float64 is that of a rounding or two; in float32 sums err more."""
    assert got.dtype == by_torch.dtype and got.shape == exact.shape
    roundings = 20 if got.dtype == torch.float32 else 3
    limit = roundings * torch.finfo(got.dtype).eps * exact.abs().max() + 1e-6
    for result in (got, by_torch):
        assert (result.double() - exact).abs().max() <= limit


@needs_triton
@settings(max_examples=12)
@given(
    num_tokens=st.sampled_from([1, 5, 33]),
    in_features=st.sampled_from([16, 100, 256]),
    out_features=st.sampled_from([1, 64, 90]),
    stored=st.sampled_from([torch.int8, torch.float8_e4m3fn]),
    dtype=shapes["dtype"],
    seed=shapes["seed"],
)
def test_eight_bit_weights(device, guarded, num_tokens, in_features, out_features, stored, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tokens, in_features, generator=generator).to(device, dtype)
    weight = (
        (torch.randn(out_features, in_features, generator=generator) * 40).clamp(-127, 127).to(device, stored)
    )
    scale = torch.rand(out_features, generator=generator).to(device) + 0.01
    with guarded():
        got = weight_only_gemm_triton(x, weight, scale)
    exact = x.double() @ (weight.double() * scale[:, None]).T
    assert_as_precise(got, weight_only_gemm_torch(x, weight, scale), exact)


@needs_triton
def test_every_finite_eight_bit_float_is_widened_exactly(device):
    """All bit patterns but the two NaNs, picked out one by one by the unit vectors."""
    bits = torch.tensor([b for b in range(256) if b & 0x7F != 0x7F], dtype=torch.uint8, device=device)
    weight = bits.view(torch.float8_e4m3fn)[:, None]
    got = weight_only_gemm_triton(
        torch.ones(1, 1, device=device), weight, torch.ones(len(bits), device=device)
    )
    assert torch.equal(got[0], weight[:, 0].float())
