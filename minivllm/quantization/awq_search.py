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

from minivllm.quantization.packing import dequantize, quantize_groups

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
) -> SearchResult:
    """Try every alpha of the grid, which begins with 0.

    Args:
        x: [n, in] what the matrices read on calibration data.
        weights: matrices [out_i, in].
        group_size: inputs that share a grid of numbers.
        grid: the alphas.
        heads: (H / K, D) when the input is the output of attention. With grouped-query attention H / K query heads
            read one value head; the scale is folded into that head, so they must share it.
    """
    assert grid[0] == 0.0, "without alpha = 0 the result could be worse than rounding to nearest"
    outputs = [x @ weight.float().T for weight in weights]
    importance = x.abs().mean(0).clamp(min=1e-4)  # [in]
    if heads is not None:
        per_head = importance.unflatten(0, (-1, *heads))  # [K, H / K, D]
        importance = per_head.mean(1, keepdim=True).expand_as(per_head).flatten()
    tried = []
    for alpha in grid:
        scale = importance**alpha
        scale = (
            scale / (scale.max() * scale.min()).sqrt()
        )  # around 1, so that nothing leaves the range of float16
        tried.append((scaled_error(x, weights, outputs, scale, group_size), alpha, scale))
    error, alpha, scale = min(tried, key=lambda entry: entry[0])
    return SearchResult(alpha, scale, error, tried[0][0])


def scaled_error(
    x: Tensor, weights: Sequence[Tensor], outputs: Sequence[Tensor], scale: Tensor, group_size: int
) -> float:
    """Mean squared error over all outputs when the weights are scaled, rounded, and read x / scale."""
    total, count = 0.0, 0
    for weight, output in zip(weights, outputs, strict=True):
        rounded = dequantize(quantize_groups(weight.float() * scale, group_size))
        total += float(((x / scale) @ rounded.T - output).square().sum())
        count += output.numel()
    return total / count
