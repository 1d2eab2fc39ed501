"""AWQ's idea: weights that meet large activations matter more, so scale them up before rounding.

    y = W x = (W diag(s)) (diag(1/s) x)          exact for any s > 0
      ~ Q(W diag(s)) (x / s)                      Q rounds to 4 bits

An input channel with s > 1 uses more of its group's grid, and its rounding error is divided by s. The price is that
the group's grid may get coarser for the others. So not all of the importance is used: s = mean|x| ** alpha, and alpha
is searched on a grid from 0 (no scaling: plain rounding to nearest) to 1, for the smallest error of the layer's
*output* on calibration data. Lin et al. 2023, section 3.2. The division of x by s costs nothing at run time: it is
folded into whatever produced x, a norm's weight or the rows of another matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from minivllm.quantization.packing import BITS, dequantize, quantize_groups

GRID = tuple(step / 20 for step in range(21))
NEAREST_ONLY = (0.0,)


@dataclass(frozen=True)
class SearchResult:
    """The best scale for matrices that read the same input."""

    alpha: float
    scale: Tensor  # [in]
    error: float  # mean squared error of the outputs on the calibration data, with this scale
    rtn_error: float  # the same, rounded to nearest without a scale


def search_scale(
    x: Tensor,
    weights: Sequence[Tensor],
    group_size: int,
    grid: Sequence[float] = GRID,
    heads: tuple[int, int] | None = None,
    bits: int = BITS,
) -> SearchResult:
    """Try every alpha of the grid, which begins with 0.

    Args:
        x: [n, in] what the matrices read on calibration data.
        weights: matrices [out_i, in].
        group_size: inputs that share a grid of numbers.
        grid: the alphas.
        heads: (H / K, D) when the input is the output of attention. With grouped-query attention H / K query heads
            read one value head; the scale is folded into that head, so they must share it.
        bits: of a rounded weight.
    """
    assert grid[0] == 0.0, "without alpha = 0 the result could be worse than rounding to nearest"
    importance = channel_importance(x, heads)
    scales = [channel_scale(importance, alpha) for alpha in grid]
    errors = [scaled_error(x, weights, scale, group_size, bits) for scale in scales]
    best = errors.index(min(errors))  # of equal ones the first: the smallest alpha
    return SearchResult(grid[best], scales[best], errors[best], errors[0])


def channel_importance(x: Tensor, heads: tuple[int, int] | None = None) -> Tensor:
    """How large each input is on the calibration data x [n, in], on average -> [in]; `heads` as in `search_scale`."""
    importance = x.abs().mean(0).clamp(min=1e-4)
    if heads is None:
        return importance
    per_head = importance.unflatten(0, (-1, *heads))  # [K, H / K, D]
    return per_head.mean(1, keepdim=True).expand_as(per_head).flatten()


def channel_scale(importance: Tensor, alpha: float) -> Tensor:
    """importance ** alpha [in], divided by one number, so that the smallest and the largest scale multiply to 1.

    They then lie around 1, and nothing leaves the range of float16.
    """
    scale = importance**alpha
    return scale / (scale.max() * scale.min()).sqrt()


def scaled_error(
    x: Tensor, weights: Sequence[Tensor], scale: Tensor, group_size: int, bits: int = BITS
) -> float:
    """Mean squared error over all outputs when the weights are scaled, rounded, and read x / scale."""
    total, count = 0.0, 0
    for weight in weights:
        scaled = weight.float() * scale
        moved = dequantize(quantize_groups(scaled, group_size, bits)) - scaled  # by the rounding
        error = (x / scale) @ moved.T  # [n, out]; without rounding the output would be that of x and weight
        total += float(error.square().sum())
        count += error.numel()
    return total / count
