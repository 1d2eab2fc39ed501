"""Exercise 11.6: Dequantize in Triton. (implement, about 30 minutes)

4-bit weights are worth the trouble because a GPU reads a quarter of the bytes. They are unpacked on
the way, by a kernel. Write one: program (i, j) makes a tile of TILE_IN x TILE_OUT elements of W,
and each element finds its own word, zero point and scale.

    W[k, n] = (nibble of qweight[k, n // 8] - nibble of qzeros[k // G, n // 8]) * scales[k // G, n]
    output n of a word lies in nibble (n % 8) // 2 + 4 * (n % 2)

Multiply in float32 and round once, to the type of the scales. The matrix need not be a multiple of
a tile: loads and stores beyond its edge are masked. Without a GPU the kernel is interpreted, as
plain Python, one program after the other.

Check: python -m minivllm.course check 11.6     (or: python -m pytest exercises/ch11_quantization/dequantize.py)
Stuck: python -m minivllm.course hint 11.6
"""

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
    raise NotImplementedError("exercise 11.6: dequantize_kernel")
