"""Exercise 11.2: INT8 and FP8, a scale for an output. (implement, about 15 minutes)

Weights in 8 bits, made while a model is loaded. Each output, a row of the matrix, gets one scale,
chosen such that its largest weight lands on the largest number of the type, and each weight becomes
the nearest number.

    torch.int8             -127 ... 127, evenly spaced
    torch.float8_e4m3fn    -448 ... 448, fine near zero and coarse far out, like every float

The same function serves both types: `tensor.to(torch.float8_e4m3fn)` rounds to the nearest one
already, and `tensor.to(torch.int8)` cuts off what stands behind the point.

Check: python -m minivllm.course check 11.2     (or: python -m pytest exercises/ch11_quantization/eight_bits.py)
Stuck: python -m minivllm.course hint 11.2
"""

import torch
from torch import Tensor


def quantize_per_channel(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight [out, in] -> (weight [out, in] as dtype, scale [out] float32), scale * weight being the nearest to it.

    dtype is torch.int8 or torch.float8_e4m3fn. A row of zeros gets the scale 1.
    """
    raise NotImplementedError("exercise 11.2: quantize_per_channel")
