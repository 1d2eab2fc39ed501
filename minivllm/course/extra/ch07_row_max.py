"""A reduction: the largest number of each row. What do the lanes hold that have no number?"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def row_max_kernel(x_ptr, out_ptr, num_columns, stride, TILE: tl.constexpr):
    """out[r] = the largest of row r. One program a row; TILE lanes, at least as many as columns."""
    row = tl.program_id(0)
    columns = tl.arange(0, TILE)  # [TILE]
    x = tl.load(x_ptr + row * stride + columns, mask=columns < num_columns, other=float("-inf"))
    tl.store(out_ptr + row, tl.max(x, axis=0))


def row_max(x: Tensor, out: Tensor) -> None:
    """x [rows, columns], whose rows may lie further apart than they are long -> out [rows]."""
    tile = triton.next_power_of_2(x.shape[1])
    row_max_kernel[(len(x),)](x, out, x.shape[1], x.stride(0), TILE=tile)
