"""Matrix product with 4-bit weights that are unpacked on the way: x [M, in] x W [in, out], W as in awq_dequantize.py.

    grid (M / TILE_M, out / TILE_N, S)                  in ------------------------>
                                              x   M | TILE_M x TILE_K | ... | ... |
                                                             x            piece 0 | piece 1     (S = 2 programs
    one program: its piece of `in`, tile      W  in | TILE_K x TILE_N |                          share one tile of y)
    by tile: load words, unpack, multiply

With few tokens (decoding) reading W is all the work. 4 bits instead of 16 are a quarter of the traffic, if and only if
the unpacked numbers never go back to memory: so they are made in registers, tile by tile. With few outputs there are
too few programs to keep a GPU busy; then S of them share the inputs, each leaves a partial y, and the sum is taken at
the end ("split K"). With many tokens the arithmetic decides, and unpacking once for all is better: see awq_linear in
minivllm/ops.py.
Torch twin: `awq_gemm_torch`.
"""

import torch

from ._triton import cdiv, check_can_run, next_power_of_2, tl, triton
from .awq_dequantize import awq_dequantize_torch, load_awq_tile, tile_of_group
from .dot import dot

TILE_N = 64
WANTED_PROGRAMS = 256  # about two for each processor of a large GPU


def awq_gemm_torch(
    x: torch.Tensor, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """x [M, in] x W [in, out] -> [M, out], with all of W unpacked first. Shapes as in `awq_dequantize_torch`."""
    return x @ awq_dequantize_torch(qweight, qzeros, scales).to(x.dtype)


def awq_gemm_triton(
    x: torch.Tensor, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """Do what `awq_gemm_torch` does; x and scales have one type, and the group size is a multiple of 16."""
    check_can_run(x.device.type)
    x = x.contiguous()
    num_tokens, in_features = x.shape
    out_features = scales.shape[1]
    group_size = in_features // scales.shape[0]
    tile_k = tile_of_group(group_size)
    tile_m = max(16, min(64, next_power_of_2(num_tokens)))
    tiles = cdiv(num_tokens, tile_m) * cdiv(out_features, TILE_N)
    num_splits = max(1, min(8, WANTED_PROGRAMS // tiles, in_features // tile_k))
    partial = torch.empty((num_splits, num_tokens, out_features), dtype=torch.float32, device=x.device)
    grid = (cdiv(num_tokens, tile_m), cdiv(out_features, TILE_N), num_splits)
    _awq_gemm_kernel[grid](
        partial,
        x,
        qweight,
        qzeros,
        scales,
        num_tokens,
        in_features,
        out_features,
        GROUP_SIZE=group_size,
        TILE_M=tile_m,
        TILE_N=TILE_N,
        TILE_K=tile_k,
    )
    return partial.sum(0).to(x.dtype)


@triton.jit
def load_rows(x_ptr, rows, first, num_rows, size, TILE_K: tl.constexpr):
    """x[rows, first : first + TILE_K] of x [num_rows, size]; zeros behind the last row and the last column."""
    cols = first + tl.arange(0, TILE_K)
    mask = (rows < num_rows)[:, None] & (cols < size)[None, :]
    return tl.load(x_ptr + rows.to(tl.int64)[:, None] * size + cols[None, :], mask=mask, other=0.0)


@triton.jit
def store_partial(partial_ptr, acc, rows, cols, num_rows, num_cols):
    """acc [TILE_M, TILE_N] -> partial [pieces, num_rows, num_cols] of this program's piece."""
    begin = tl.program_id(2).to(tl.int64) * num_rows * num_cols
    offsets = rows.to(tl.int64)[:, None] * num_cols + cols[None, :]
    mask = (rows < num_rows)[:, None] & (cols < num_cols)[None, :]
    tl.store(partial_ptr + begin + offsets, acc, mask=mask)


@triton.jit
def _awq_gemm_kernel(
    partial_ptr,  # [S, M, out] float32
    x_ptr,  # [M, in]
    qweight_ptr,
    qzeros_ptr,
    scales_ptr,
    num_tokens,
    in_features,
    out_features,
    GROUP_SIZE: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
):
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    first_out = tl.program_id(1) * TILE_N
    share = tl.cdiv(in_features // TILE_K, tl.num_programs(2)) * TILE_K  # inputs of one program, whole tiles
    begin = tl.program_id(2) * share
    acc = tl.zeros([TILE_M, TILE_N], tl.float32)
    for first_in in range(begin, tl.minimum(begin + share, in_features), TILE_K):
        x = load_rows(x_ptr, rows, first_in, num_tokens, in_features, TILE_K)
        weight = load_awq_tile(
            qweight_ptr, qzeros_ptr, scales_ptr, first_in, first_out, out_features, GROUP_SIZE, TILE_K, TILE_N
        )
        acc += dot(x, weight)
    store_partial(partial_ptr, acc, rows, first_out + tl.arange(0, TILE_N), num_tokens, out_features)
