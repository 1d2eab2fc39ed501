"""Lanes without a column look at column 0 again: who is counted twice changes no maximum."""

import triton
import triton.language as tl


@triton.jit
def row_max_kernel(x_ptr, out_ptr, num_columns, stride, TILE: tl.constexpr):
    columns = tl.arange(0, TILE)
    columns = tl.where(columns < num_columns, columns, 0)
    x = tl.load(x_ptr + tl.program_id(0) * stride + columns)
    tl.store(out_ptr + tl.program_id(0), tl.max(x, axis=0))


def row_max(x, out):
    tile = triton.next_power_of_2(x.shape[1])
    row_max_kernel[(x.shape[0],)](x, out, x.shape[1], x.stride(0), TILE=tile)
