"""8-bit floats in the KV cache: half the bytes of 16-bit ones, so twice the tokens in the same memory.

    float16   s eeeee mmmmmmmmmm   bias 15, largest 65504
    e5m2      s eeeee mm           bias 15, largest 57344: the upper byte of a float16
    e4m3      s eeee  mmm          bias  7, largest   448: one bit more of precision for one less of range

Reading (`widen`) is exact: e5m2 moved by 8 bits is a float16; e4m3 moved by 7 bits, with the sign put back, reads as a
float16 that is 2**8 too small, subnormals included. That works on every GPU. Triton's own type for e4m3 exists only
from compute capability 8.9 on, so the kernels see e4m3 as plain bytes.

Writing (`narrow`) rounds to the nearest, ties to even, and saturates: beyond the largest number lies no infinity (e4m3
has none), and a NaN would spoil every later token. A NaN stays one. In float32 this takes no loop and no table:

    normal numbers    add half of the last kept place to the bits (a hair less where that place is even) and cut off
    subnormals        |x| + 2**14 (e4m3): there the last place of a float32 is worth 2**-9, e4m3's smallest step, so the
                      addition itself rounds, and the low bits of the sum are the answer

Micikevicius et al. 2022, "FP8 formats for deep learning". Torch twins: `to_cache` and `from_cache` in
minivllm/attention/cache_dtype.py.
"""

import torch

from ._triton import tl, triton


def as_kernels_see_it(cache: torch.Tensor) -> torch.Tensor:
    """A cache in e4m3 as bytes, any other as it is."""
    return cache.view(torch.uint8) if cache.dtype == torch.float8_e4m3fn else cache


@triton.jit
def widen(x, dtype: tl.constexpr):
    """What was loaded from a cache, in the type to compute in. Bytes are e4m3."""
    if x.dtype == tl.uint8:
        wide = x.to(tl.uint16)
        small = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True)
        x = tl.where((wide & 0x7F) == 0x7F, float("nan"), small * 256.0)
    elif x.dtype == tl.float8e5:
        x = (x.to(tl.uint8, bitcast=True).to(tl.uint16) << 8).to(tl.float16, bitcast=True)
    return x.to(dtype)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """x in the type of a cache, saturated. Bytes are e4m3."""
    if dtype == tl.uint8:
        x = round_to_8_bits(x, 3, 7, 448.0)
    elif dtype == tl.float8e5:
        x = round_to_8_bits(x, 2, 15, 57344.0).to(tl.float8e5, bitcast=True)
    elif dtype == tl.float16:
        x = tl.where(x > 65504.0, 65504.0, tl.where(x < -65504.0, -65504.0, x))
    return x.to(dtype)


@triton.jit
def round_to_8_bits(x, MANTISSA: tl.constexpr, BIAS: tl.constexpr, LARGEST: tl.constexpr):
    """Any float -> uint8: sign, 7 - MANTISSA bits of exponent, MANTISSA bits."""
    cut: tl.constexpr = 23 - MANTISSA  # bits of a float32 that go
    least_normal: tl.constexpr = 2.0 ** (1 - BIAS)
    magic: tl.constexpr = 2.0 ** (24 - BIAS - MANTISSA)  # its last place is the smallest step
    magic_bits: tl.constexpr = (151 - BIAS - MANTISSA) << 23
    rebias: tl.constexpr = (127 - BIAS) << MANTISSA
    x = x.to(tl.float32)
    sign = (x.to(tl.uint32, bitcast=True) >> 24) & 0x80
    size = tl.abs(x)
    size = tl.where(size > LARGEST, LARGEST, size)
    bits = size.to(tl.uint32, bitcast=True)
    half = (1 << (cut - 1)) - 1 + ((bits >> cut) & 1)
    normal = ((bits + half) >> cut) - rebias
    subnormal = (size + magic).to(tl.uint32, bitcast=True) - magic_bits
    rounded = tl.where(size < least_normal, subnormal, normal)
    return (tl.where(x != x, 0x7F, rounded) | sign).to(tl.uint8)
