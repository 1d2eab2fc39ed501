"""Exercise 11.3: Round to nearest, group by group. (implement, about 25 minutes)

With 16 numbers instead of 256, one scale for a whole row is too coarse. So the inputs of an output
are cut into groups, and each group gets a grid of its own: a scale (the step) and a zero point.

    numbers   0 ... zero ... 15           weight = (number - zero) * scale
    weights  low ...  0  ... high         low and high: the group's smallest and largest weight, and 0 between them

Note which way round things are: a weight comes as [out, in], and the numbers are kept as [in, out],
as in checkpoints. The scale is stored as float16. Round it first, and choose the numbers for the
scale that will be stored. A step is never smaller than 1e-5, so that a group of zeros divides by
something.

Check: python -m minivllm.course check 11.3     (or: python -m pytest exercises/ch11_quantization/groups.py)
Stuck: python -m minivllm.course hint 11.3
"""

from torch import Tensor
from typing import NamedTuple


BITS = 4


class GroupQuantized(NamedTuple):
    """W [in, out] as numbers of a few bits: W is about (q - zeros) * scales, group by group."""

    q: Tensor  # [in, out] int32, 0 to 2**bits - 1
    zeros: Tensor  # [in / G, out] int32, 0 to 2**bits - 1
    scales: Tensor  # [in / G, out] float16, as the checkpoint keeps them


def quantize_groups(weight: Tensor, group_size: int, bits: int = BITS) -> GroupQuantized:
    """Round weight [out, in] to nearest, each group of `group_size` inputs of an output on its own grid of numbers.

    A grid has 2**bits numbers. It spans the group's smallest to largest weight, and 0 is always on it: so a weight of
    0 stays 0.
    """
    raise NotImplementedError("exercise 11.3: quantize_groups")


def dequantize(quantized: GroupQuantized) -> Tensor:
    """-> the weights [out, in] float32, the way round in which `quantize_groups` takes them."""
    raise NotImplementedError("exercise 11.3: dequantize")
