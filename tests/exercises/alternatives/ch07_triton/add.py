"""The pointers are moved to the program's share first, and what is left of it is counted from there."""

import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, TILE: tl.constexpr):
    start = tl.program_id(0) * TILE
    lanes = tl.arange(0, TILE)
    there = lanes < n - start
    total = tl.load(x_ptr + start + lanes, mask=there, other=0.0)
    total += tl.load(y_ptr + start + lanes, mask=there, other=0.0)
    tl.store(out_ptr + start + lanes, total, mask=there)


def add(x, y, out, tile):
    add_kernel[((len(x) + tile - 1) // tile,)](x, y, out, len(x), TILE=tile)
