"""A sum for each lane, and the sum of these at the end."""

import triton
import triton.language as tl


@triton.jit
def row_sum_kernel(x_ptr, out_ptr, lens_ptr, stride, TILE: tl.constexpr):
    row = tl.program_id(0)
    length = tl.load(lens_ptr + row)
    lanes = tl.arange(0, TILE)
    sums = tl.zeros([TILE], tl.float32)
    for index in range(tl.cdiv(length, TILE)):
        place = index * TILE + lanes
        x = tl.load(x_ptr + row * stride + place, mask=place < length, other=0.0)
        sums = sums + x
    tl.store(out_ptr + row, tl.sum(sums, axis=0))


def row_sum(x, lens, out, tile):
    row_sum_kernel[(len(x),)](x, out, lens, x.stride(0), TILE=tile)
