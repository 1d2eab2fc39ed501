"""Exercise 7.1: Warm-up: add, with a mask. (implement, about 10 minutes)

A kernel is run many times at once; each run is a program and knows its number, tl.program_id(0).
Add two vectors: program p does the places p * TILE to p * TILE + TILE - 1, all at once.

    n = 11, TILE = 4     program 0: | 0 1 2 3 |   program 1: | 4 5 6 7 |   program 2: | 8 9 10 - |

The last program has lanes without a number. They must neither read nor write: that is what `mask`
is for.

Check: python -m minivllm.course check 7.1     (or: python -m pytest exercises/ch07_triton/add.py)
Stuck: python -m minivllm.course hint 7.1
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, TILE: tl.constexpr):
    """out[i] = x[i] + y[i] for every i below n. Program number p does the places p * TILE to p * TILE + TILE - 1."""
    raise NotImplementedError("exercise 7.1: add_kernel")


def add(x: Tensor, y: Tensor, out: Tensor, tile: int) -> None:
    """out [n] = x [n] + y [n]. `tile` is a power of two."""
    add_kernel[(triton.cdiv(len(x), tile),)](x, y, out, len(x), TILE=tile)
