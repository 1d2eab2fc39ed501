"""Exercise 11.5: AWQ: search the scales. (implement, about 35 minutes)

Weights that meet large activations matter more. Multiply them by s before rounding and divide the
activation by s, and their rounding error shrinks by s, while the exact product stays what it was:

    y = W x = (W diag(s)) (x / s)   ~   Q(W diag(s)) (x / s)

Too much of it makes the groups' grids coarser for everybody else. So s = importance ** alpha, and
alpha is searched on a grid from 0 (plain rounding to nearest) to 1, for the smallest error of the
OUTPUT on calibration data.

`channel_importance` is written. Write `channel_scale` (one alpha -> one scale), `scaled_error` (how
wrong are the outputs with this scale?) and `search_scale` (the best of the grid). Round with
quantize_groups and dequantize.

Check: python -m minivllm.course check 11.5     (or: python -m pytest exercises/ch11_quantization/awq_search.py)
Stuck: python -m minivllm.course hint 11.5
"""

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from minivllm.quantization.packing import BITS, dequantize, quantize_groups


GRID = tuple(step / 20 for step in range(21))


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
    raise NotImplementedError("exercise 11.5: search_scale")


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
    raise NotImplementedError("exercise 11.5: channel_scale")


def scaled_error(
    x: Tensor, weights: Sequence[Tensor], scale: Tensor, group_size: int, bits: int = BITS
) -> float:
    """Mean squared error over all outputs when the weights are scaled, rounded, and read x / scale."""
    raise NotImplementedError("exercise 11.5: scaled_error")
