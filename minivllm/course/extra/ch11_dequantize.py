"""Dequantizing in Triton, in the simplest way: each element of the result finds its own word, zero point and scale.

The engine's kernel (`kernels/awq_dequantize.py`) reads each word once and spreads it; this one reads it eight times.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import torch
import triton
import triton.language as tl

TILE_IN = 16  # inputs of one program
TILE_OUT = 32  # and outputs


def dequantize_into(
    out: torch.Tensor, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor
) -> None:
    """Write W [in, out] into `out`. Shapes: qweight [in, out / 8], qzeros [in / G, out / 8], scales [in / G, out]."""
    num_in, num_out = out.shape
    grid = (triton.cdiv(num_in, TILE_IN), triton.cdiv(num_out, TILE_OUT))
    group_size = num_in // len(scales)
    dequantize_kernel[grid](
        out, qweight, qzeros, scales, num_in, num_out, group_size, TILE_IN=TILE_IN, TILE_OUT=TILE_OUT
    )


@triton.jit
def dequantize_kernel(
    out_ptr,  # [in, out]
    qweight_ptr,  # [in, out / 8] int32
    qzeros_ptr,  # [in / G, out / 8] int32
    scales_ptr,  # [in / G, out]
    num_in,
    num_out,
    group_size,
    TILE_IN: tl.constexpr,
    TILE_OUT: tl.constexpr,
):
    """Program (i, j) writes the tile of W that begins at input i * TILE_IN and output j * TILE_OUT."""
    ins = tl.program_id(0) * TILE_IN + tl.arange(0, TILE_IN)
    outs = tl.program_id(1) * TILE_OUT + tl.arange(0, TILE_OUT)
    mask = (ins < num_in)[:, None] & (outs < num_out)[None, :]
    num_words = num_out // 8
    groups = ins // group_size
    shifts = 4 * (outs % 8 // 2 + 4 * (outs % 2))
    words = tl.load(qweight_ptr + ins[:, None] * num_words + (outs // 8)[None, :], mask=mask, other=0)
    zeros = tl.load(qzeros_ptr + groups[:, None] * num_words + (outs // 8)[None, :], mask=mask, other=0)
    scales = tl.load(scales_ptr + groups[:, None] * num_out + outs[None, :], mask=mask, other=0.0)
    centered = ((words >> shifts[None, :]) & 15) - ((zeros >> shifts[None, :]) & 15)
    weight = centered.to(tl.float32) * scales.to(tl.float32)
    tl.store(out_ptr + ins[:, None] * num_out + outs[None, :], weight.to(scales.dtype), mask=mask)
