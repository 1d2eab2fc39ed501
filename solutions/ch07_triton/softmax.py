"""Exercise 7.8: Debug: a mask that is missing."""

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
    scores = tl.load(scores_ptr + row * stride + columns, mask=is_there, other=float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=0))
    total = tl.sum(weights, axis=0)
    tl.store(out_ptr + row * stride + columns, weights / total, mask=is_there)


def softmax(scores: Tensor, lens: Tensor, out: Tensor) -> None:
    """scores [rows, columns], lens [rows] -> out [rows, columns], laid out like scores."""
    tile = triton.next_power_of_2(scores.shape[1])
    softmax_kernel[(len(scores),)](scores, lens, out, scores.stride(0), TILE=tile)
