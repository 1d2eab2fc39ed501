"""Exercise 7.2: Warm-up: the largest of each row. (implement, about 10 minutes)

One program for each row; all its columns in one tile. A tile has a power of two of lanes, so some
lanes have no column. They take part in the reduction all the same: what must they hold, so that
they cannot win?

Rows may lie further apart than they are long: `stride` is the number of elements from one row to
the next.

Check: python -m minivllm.course check 7.2     (or: python -m pytest exercises/ch07_triton/row_max.py)
Stuck: python -m minivllm.course hint 7.2
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def row_max_kernel(x_ptr, out_ptr, num_columns, stride, TILE: tl.constexpr):
    """out[r] = the largest of row r. One program a row; TILE lanes, at least as many as columns."""
    raise NotImplementedError("exercise 7.2: row_max_kernel")


def row_max(x: Tensor, out: Tensor) -> None:
    """x [rows, columns], whose rows may lie further apart than they are long -> out [rows]."""
    tile = triton.next_power_of_2(x.shape[1])
    row_max_kernel[(len(x),)](x, out, x.shape[1], x.stride(0), TILE=tile)
