"""Exercise 7.8: Debug: a mask that is missing. (debug, about 15 minutes)

The softmax over rows of different lengths, and it is wrong. Not always: many tests went through.
The outputs are all between 0 and 1, no memory is touched that should not be, and nothing is NaN.
But some rows do not sum to one.

Find a row for which it is wrong, understand it, and change as little as you can.

Check: python -m minivllm.course check 7.8     (or: python -m pytest exercises/ch07_triton/softmax.py)
Stuck: python -m minivllm.course hint 7.8
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def softmax_kernel(scores_ptr, lens_ptr, out_ptr, stride, TILE: tl.constexpr):
    """out[r] = softmax of the first lens[r] scores of row r. What lies behind them in `out` stays as it is."""
    row = tl.program_id(0)
    length = tl.load(lens_ptr + row)
    columns = tl.arange(0, TILE)  # [TILE]
    is_there = columns < length
    scores = tl.load(scores_ptr + row * stride + columns, mask=is_there, other=0.0)
    weights = tl.exp(scores - tl.max(scores, axis=0))
    total = tl.sum(weights, axis=0)
    tl.store(out_ptr + row * stride + columns, weights / total, mask=is_there)


def softmax(scores: Tensor, lens: Tensor, out: Tensor) -> None:
    """scores [rows, columns], lens [rows] -> out [rows, columns], laid out like scores."""
    tile = triton.next_power_of_2(scores.shape[1])
    softmax_kernel[(len(scores),)](scores, lens, out, scores.stride(0), TILE=tile)
