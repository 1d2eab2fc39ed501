"""The weights are masked, not the scores."""

import triton
import triton.language as tl


@triton.jit
def softmax_kernel(scores_ptr, lens_ptr, out_ptr, stride, TILE: tl.constexpr):
    row, columns = tl.program_id(0), tl.arange(0, TILE)
    is_there = columns < tl.load(lens_ptr + row)
    scores = tl.load(scores_ptr + row * stride + columns, mask=is_there, other=0.0)
    highest = tl.max(tl.where(is_there, scores, -1e30), axis=0)
    weights = tl.where(is_there, tl.exp(scores - highest), 0.0)
    tl.store(out_ptr + row * stride + columns, weights / tl.sum(weights, axis=0), mask=is_there)


def softmax(scores, lens, out):
    tile = triton.next_power_of_2(scores.shape[1])
    softmax_kernel[(len(scores),)](scores, lens, out, scores.stride(0), TILE=tile)
