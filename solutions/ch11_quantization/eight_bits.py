"""Exercise 11.2: INT8 and FP8, a scale for an output."""

import torch
from torch import Tensor


def quantize_per_channel(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight [out, in] -> (weight [out, in] as dtype, scale [out] float32), scale * weight being the nearest to it.

    dtype is torch.int8 or torch.float8_e4m3fn. A row of zeros gets the scale 1.
    """
    limit = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
    wide = weight.float()
    largest = wide.abs().amax(1)  # [out]
    scale = torch.where(largest > 0, largest / limit, 1.0)
    scaled = (wide / scale[:, None]).clamp(-limit, limit)
    return (scaled if dtype.is_floating_point else scaled.round()).to(dtype), scale
