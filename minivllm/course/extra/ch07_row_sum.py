"""A loop inside a program: a row that is longer than a tile."""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def row_sum_kernel(x_ptr, out_ptr, lens_ptr, stride, TILE: tl.constexpr):
    """out[r] = the sum of the first lens[r] numbers of row r. One program a row, which goes on by TILE at a time."""
    row = tl.program_id(0)
    length = tl.load(lens_ptr + row)
    total = 0.0
    for start in range(0, length, TILE):
        columns = start + tl.arange(0, TILE)  # [TILE]
        x = tl.load(x_ptr + row * stride + columns, mask=columns < length, other=0.0)
        total += tl.sum(x, axis=0)
    tl.store(out_ptr + row, total)


def row_sum(x: Tensor, lens: Tensor, out: Tensor, tile: int) -> None:
    """x [rows, columns], lens [rows] -> out [rows]."""
    row_sum_kernel[(len(x),)](x, out, lens, x.stride(0), TILE=tile)
