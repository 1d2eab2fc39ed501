"""Rounding to 8-bit floats and back: kernels and torch against the definition of the two formats in numpy."""

import numpy as np
import pytest
import torch

from minivllm.attention.cache_dtype import from_cache, to_cache
from minivllm.kernels._triton import HAS_TRITON, tl, triton
from minivllm.kernels.fp8 import as_kernels_see_it, widen
from minivllm.kernels.reshape_and_cache import reshape_and_cache_triton

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy, at NaN
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")
FORMATS = {
    torch.float8_e4m3fn: (3, 7, 0x7E),
    torch.float8_e5m2: (2, 15, 0x7B),
}  # mantissa, bias, largest code


def values_of(dtype) -> np.ndarray:
    """The number behind each code from 0 to the largest finite one, from the definition (float64)."""
    mantissa, bias, largest = FORMATS[dtype]
    codes = np.arange(largest + 1)
    exponent, fraction = codes >> mantissa, (codes & (2**mantissa - 1)) / 2**mantissa
    return np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))


def nearest(x: np.ndarray, dtype) -> np.ndarray:
    """Each number of x rounded to the nearest of the format, of two equally near ones to the even code; saturated."""
    values = values_of(dtype)
    size = np.minimum(np.abs(x.astype(np.float64)), values[-1])
    above = np.minimum(np.searchsorted(values, size), len(values) - 1)
    below = np.maximum(above - 1, 0)
    up, down = values[above] - size, size - values[below]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return np.copysign(values[np.where(np.isnan(x), 0, code)], x) + np.where(np.isnan(x), np.nan, 0)


def numbers(dtype) -> torch.Tensor:
    """[16, 1, 4096]: every number there is in 16 bits; of float32 random ones, and those around every border."""
    if dtype != torch.float32:
        return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(16, 1, 4096)
    random = torch.randn(2**16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-8, 6, 2**16)
    borders = np.concatenate([(v[1:] + v[:-1]) / 2 for v in map(values_of, FORMATS)]).astype(np.float32)
    near = [borders, np.nextafter(borders, np.float32(0)), np.nextafter(borders, np.float32(np.inf))]
    special = np.concatenate([*near, np.float32([np.inf, -np.inf, np.nan, 1e30, -1e30, 448, 449, 464, 480])])
    random[: len(special)] = torch.from_numpy(special)
    return random.view(16, 1, 4096)


def by_torch(x, dtype):
    return to_cache(x, dtype)


def by_kernel(x, dtype):
    """Written to slots in another order than the tokens'."""
    caches = [torch.full((16, 1, 1, 4096), float("nan"), dtype=dtype, device=x.device) for _ in range(2)]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).to(x.device)
    reshape_and_cache_triton(x, -x, *caches, order)
    assert torch.equal(caches[0].float().nan_to_num(7)[order], -caches[1].float().nan_to_num(-7)[order])
    return caches[0].view(torch.uint8)[order].view(dtype)[:, 0]


@pytest.mark.parametrize("write", [by_torch, pytest.param(by_kernel, marks=needs_triton)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", FORMATS)
def test_every_number_is_rounded_to_the_nearest_and_none_overflows(device, write, dtype, stored):
    x = numbers(dtype)
    got = write(x.to(device), stored).float().cpu().numpy()
    expected = nearest(x.float().numpy(), stored)
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    assert np.isnan(expected).sum() == np.isnan(x.float().numpy()).sum()


if HAS_TRITON:

    @triton.jit
    def _widen_kernel(out_ptr, codes_ptr):
        codes = tl.arange(0, 256)
        out = widen(tl.load(codes_ptr + codes, mask=codes < 256, other=0.0), out_ptr.dtype.element_ty)
        tl.store(out_ptr + codes, out)


@pytest.mark.parametrize("by_kernel", [False, pytest.param(True, marks=needs_triton)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", FORMATS)
def test_every_code_is_read_exactly(device, by_kernel, dtype, stored):
    codes = torch.arange(256, dtype=torch.uint8, device=device).view(stored)
    got = torch.empty(256, dtype=dtype, device=device)
    if by_kernel:
        _widen_kernel[(1,)](got, as_kernels_see_it(codes))
    else:
        got = from_cache(codes, dtype)
    values, halves = values_of(stored), got.float().cpu().numpy().reshape(2, 128)
    for sign, half in zip((1, -1), halves, strict=True):
        np.testing.assert_array_equal(half[: len(values)], sign * values)
        beyond = half[len(values) :]
        assert (np.isnan(beyond) | np.isinf(beyond)).all() and np.isnan(beyond).any()


@needs_triton
def test_a_cache_in_16_bits_saturates_too_and_one_in_the_same_type_is_not_touched(device):
    x = torch.tensor([1e6, -1e6, 65504.0, 3.0]).view(1, 1, 4).to(device)
    for stored, expected in {
        torch.float16: [65504, -65504, 65504, 3],
        torch.float32: [1e6, -1e6, 65504, 3],
    }.items():
        caches = [torch.zeros(1, 1, 1, 4, dtype=stored, device=device) for _ in range(2)]
        reshape_and_cache_triton(x, x, *caches, torch.zeros(1, dtype=torch.int64, device=device))
        assert caches[0].flatten().tolist() == to_cache(x, stored).flatten().tolist() == expected
