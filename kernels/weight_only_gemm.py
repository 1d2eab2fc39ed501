"""Matrix product with 8-bit weights, one scale for each output: y = x (scale * W8)^T.

    grid (M / TILE_M, out / TILE_N, S), as in awq_gemm.py; W8 [out, in] is int8 or 8-bit float, scale [out]

A scale that belongs to a whole output can wait until the end: sum_i x_i (s w_i) = s sum_i x_i w_i. So the loop only
widens the weights, which is exact. Wide enough are even 16 bits: int8 has 8 significant bits, and the 8-bit float e4m3
(Micikevicius et al. 2022: sign, 4 bits of exponent with bias 7, 3 of mantissa) is a 16-bit float in disguise:

    e4m3            s eeee mmm
    float16         s 0eeee mmm0000000      bias 15 instead of 7: this reads as the value / 2**8, subnormals included

The factor 2**8 goes into the scale. This works on every GPU, whether or not it knows 8-bit floats.
Torch twin: `weight_only_gemm_torch`.
"""

import torch

from ._triton import cdiv, check_can_run, next_power_of_2, tl, triton
from .awq_gemm import TILE_N, WANTED_PROGRAMS, load_rows, store_partial
from .dot import dot

TILE_K = 64
E4M3_SHIFT = 2.0**8


def weight_only_gemm_torch(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x [M, in] x (scale * weight)^T -> [M, out].

    Args:
        x: 16- or 32-bit floats.
        weight: [out, in] int8 or float8_e4m3fn.
        scale: [out] float32.
    """
    return x @ (weight.float() * scale[:, None]).to(x.dtype).T


def weight_only_gemm_triton(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Do what `weight_only_gemm_torch` does."""
    check_can_run(x.device.type)
    x = x.contiguous()
    num_tokens, in_features = x.shape
    out_features = len(weight)
    is_float = weight.dtype == torch.float8_e4m3fn
    tile_m = max(16, min(64, next_power_of_2(num_tokens)))
    tiles = cdiv(num_tokens, tile_m) * cdiv(out_features, TILE_N)
    num_splits = max(1, min(8, WANTED_PROGRAMS // tiles, cdiv(in_features, TILE_K)))
    partial = torch.empty((num_splits, num_tokens, out_features), dtype=torch.float32, device=x.device)
    grid = (cdiv(num_tokens, tile_m), cdiv(out_features, TILE_N), num_splits)
    _weight_only_gemm_kernel[grid](
        partial,
        x,
        weight.view(torch.uint8) if is_float else weight,
        num_tokens,
        in_features,
        out_features,
        IS_FLOAT=is_float,
        TILE_M=tile_m,
        TILE_N=TILE_N,
        TILE_K=TILE_K,
    )
    return (partial.sum(0) * (scale * E4M3_SHIFT if is_float else scale)).to(x.dtype)


@triton.jit
def _weight_only_gemm_kernel(
    partial_ptr,  # [S, M, out] float32
    x_ptr,  # [M, in]
    weight_ptr,  # [out, in] int8, or the bits of e4m3
    num_tokens,
    in_features,
    out_features,
    IS_FLOAT: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
):
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    outs = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    share = tl.cdiv(tl.cdiv(in_features, TILE_K), tl.num_programs(2)) * TILE_K
    begin = tl.program_id(2) * share
    acc = tl.zeros([TILE_M, TILE_N], tl.float32)
    for first_in in range(begin, tl.minimum(begin + share, in_features), TILE_K):
        x = load_rows(x_ptr, rows, first_in, num_tokens, in_features, TILE_K)
        bits = load_rows(weight_ptr, outs, first_in, out_features, in_features, TILE_K)  # [TILE_N, TILE_K]
        if IS_FLOAT:
            wide = bits.to(tl.uint16)
            weight = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32)
        else:
            weight = bits.to(tl.float32)
        acc += dot(x, tl.trans(weight.to(x.dtype)))
    store_partial(partial_ptr, acc, rows, outs, num_tokens, out_features)
