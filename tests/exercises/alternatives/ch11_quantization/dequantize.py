"""Each word is read once: a tile of words, and for each of its eight outputs a store of its own."""

import torch
import triton
import triton.language as tl

TILE_IN = 16
TILE_OUT = 32


def dequantize_into(
    out: torch.Tensor, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor
) -> None:
    num_in, num_words = qweight.shape
    grid = (triton.cdiv(num_in, TILE_IN), triton.cdiv(num_words, TILE_OUT // 8))
    group_size = num_in // len(scales)
    dequantize_kernel[grid](
        out, qweight, qzeros, scales, num_in, num_words, group_size, TILE_IN=TILE_IN, TILE_WORDS=TILE_OUT // 8
    )


@triton.jit
def dequantize_kernel(
    out_ptr,
    qweight_ptr,
    qzeros_ptr,
    scales_ptr,
    num_in,
    num_words,
    group_size,
    TILE_IN: tl.constexpr,
    TILE_WORDS: tl.constexpr,
):
    rows = tl.program_id(0) * TILE_IN + tl.arange(0, TILE_IN)[:, None]
    columns = tl.program_id(1) * TILE_WORDS + tl.arange(0, TILE_WORDS)[None, :]
    is_inside = (rows < num_in) & (columns < num_words)
    group_rows = rows // group_size
    words = tl.load(qweight_ptr + rows * num_words + columns, mask=is_inside, other=0)
    zero_words = tl.load(qzeros_ptr + group_rows * num_words + columns, mask=is_inside, other=0)
    for output in tl.static_range(8):
        shift = 4 * (output // 2) + 16 * (output % 2)
        number = ((words >> shift) & 15) - ((zero_words >> shift) & 15)
        where = 8 * columns + output
        scale = tl.load(scales_ptr + group_rows * 8 * num_words + where, mask=is_inside, other=0.0)
        weight = (number * scale.to(tl.float32)).to(scale.dtype)
        tl.store(out_ptr + rows * 8 * num_words + where, weight, mask=is_inside)
