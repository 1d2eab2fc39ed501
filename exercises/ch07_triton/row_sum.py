"""Exercise 7.4: Warm-up: a sum with a loop. (implement, about 10 minutes)

A row may be longer than any tile. So the program that owns the row goes along it, TILE numbers at a
time, and carries the sum from one round to the next. Rows have different lengths: lens[r] says how
many numbers of row r count.

This is the skeleton of the decode kernel: there the row is a context, and what is carried is the
state of chapter 06.

Check: python -m minivllm.course check 7.4     (or: python -m pytest exercises/ch07_triton/row_sum.py)
Stuck: python -m minivllm.course hint 7.4
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def row_sum_kernel(x_ptr, out_ptr, lens_ptr, stride, TILE: tl.constexpr):
    """out[r] = the sum of the first lens[r] numbers of row r. One program a row, which goes on by TILE at a time."""
    raise NotImplementedError("exercise 7.4: row_sum_kernel")


def row_sum(x: Tensor, lens: Tensor, out: Tensor, tile: int) -> None:
    """x [rows, columns], lens [rows] -> out [rows]."""
    row_sum_kernel[(len(x),)](x, out, lens, x.stride(0), TILE=tile)
