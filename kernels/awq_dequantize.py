"""From 4-bit weights, as AWQ checkpoints store them, to numbers: (q - zero) * scale.

    qweight [in, out / 8] int32     one word = 8 outputs of one input:   bits  28  24  20  16  12   8   4   0
                                                          output number         7   5   3   1   6   4   2   0
    scales  [in / G, out]           one scale for G inputs (a group) of one output
    qzeros  [in / G, out / 8] int32 their zero points, packed the same way

Output j of a word lies in nibble j // 2 + 4 * (j % 2): even outputs in the lower half, odd ones in the upper. GPU
kernels like that order: a word and the same word shifted by 16 bits give neighbouring outputs in pairs. AutoAWQ's
"gemm" layout (Lin et al. 2023, AWQ); unlike GPTQ's, its zero points are stored as they are, not minus one.

    grid (in / TILE_K, out / TILE_N): one program unpacks one tile of W [in, out]
"""

import torch

from ._triton import cdiv, check_can_run, tl, triton

PACK = 8  # 4-bit numbers in an int32
SHIFTS = tuple(4 * (j // 2 + 4 * (j % 2)) for j in range(PACK))  # of output j of a word


def unpack_torch(packed: torch.Tensor) -> torch.Tensor:
    """[rows, n / 8] int32 -> [rows, n] int32 of 0 to 15."""
    shifts = torch.tensor(SHIFTS, dtype=torch.int32, device=packed.device)
    return ((packed[..., None] >> shifts) & 15).flatten(-2)


def awq_dequantize_torch(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Unpack the whole matrix.

    Args:
        qweight: [in, out / 8] int32.
        qzeros: [in / G, out / 8] int32; the group size G follows from the shapes.
        scales: [in / G, out].

    Returns:
        W [in, out] in the type of the scales.
    """
    num_groups, out_features = scales.shape
    centered = unpack_torch(qweight).view(num_groups, -1, out_features) - unpack_torch(qzeros)[:, None]
    return (centered.to(scales.dtype) * scales[:, None]).flatten(0, 1)


def awq_dequantize_triton(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Do what `awq_dequantize_torch` does; the group size must be a multiple of 16."""
    check_can_run(qweight.device.type)
    in_features, out_features = qweight.shape[0], scales.shape[1]
    group_size = in_features // scales.shape[0]
    tile_k, tile_n = tile_of_group(group_size), 64
    out = torch.empty((in_features, out_features), dtype=scales.dtype, device=scales.device)
    grid = (in_features // tile_k, cdiv(out_features, tile_n))
    _awq_dequantize_kernel[grid](
        out, qweight, qzeros, scales, out_features, GROUP_SIZE=group_size, TILE_K=tile_k, TILE_N=tile_n
    )
    return out


def tile_of_group(group_size: int) -> int:
    """Inputs in a tile: a power of two that divides the group, so that a tile needs one scale for each output."""
    return min(64, group_size & -group_size)


@triton.jit
def unpack_words(words, cols):
    """words [rows, n / 8] and the column numbers [n] -> the 4-bit numbers [rows, n]."""
    words = tl.interleave(words, words)  # each word twice,
    words = tl.interleave(words, words)  # four times,
    words = tl.interleave(words, words)  # eight times: once for each of its columns
    inside = cols % 8
    shifts = 4 * (inside // 2 + 4 * (inside % 2))
    return (words >> shifts[None, :]) & 15


@triton.jit
def load_awq_tile(
    qweight_ptr,
    qzeros_ptr,
    scales_ptr,
    first_in,
    first_out,
    out_features,
    GROUP_SIZE: tl.constexpr,
    TILE_K: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """The tile of W whose first element is (first_in, first_out) -> [TILE_K, TILE_N] in the type of the scales."""
    ins = (first_in + tl.arange(0, TILE_K)).to(tl.int64)
    words = first_out // 8 + tl.arange(0, TILE_N // 8)
    cols = first_out + tl.arange(0, TILE_N)
    num_words = out_features // 8
    is_word, is_col = words < num_words, cols < out_features
    group = first_in // GROUP_SIZE
    packed = tl.load(qweight_ptr + ins[:, None] * num_words + words[None, :], mask=is_word[None, :], other=0)
    zeros = tl.load(qzeros_ptr + group * num_words + words, mask=is_word, other=0)
    scales = tl.load(scales_ptr + group * out_features + cols, mask=is_col, other=0.0)
    centered = unpack_words(packed, cols) - unpack_words(zeros[None, :], cols)  # [TILE_K, TILE_N]
    return (centered.to(tl.float32) * scales.to(tl.float32)[None, :]).to(scales.dtype)  # rounded once


@triton.jit
def _awq_dequantize_kernel(
    out_ptr,
    qweight_ptr,
    qzeros_ptr,
    scales_ptr,
    out_features,
    GROUP_SIZE: tl.constexpr,
    TILE_K: tl.constexpr,
    TILE_N: tl.constexpr,
):
    first_in, first_out = tl.program_id(0) * TILE_K, tl.program_id(1) * TILE_N
    weight = load_awq_tile(
        qweight_ptr, qzeros_ptr, scales_ptr, first_in, first_out, out_features, GROUP_SIZE, TILE_K, TILE_N
    )
    ins = (first_in + tl.arange(0, TILE_K)).to(tl.int64)
    cols = first_out + tl.arange(0, TILE_N)
    tl.store(
        out_ptr + ins[:, None] * out_features + cols[None, :], weight, mask=(cols < out_features)[None, :]
    )
