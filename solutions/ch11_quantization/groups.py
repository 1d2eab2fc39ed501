"""Exercise 11.3: Round to nearest, group by group."""

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
    largest = 2**bits - 1
    groups = weight.float().T.unflatten(0, (-1, group_size))  # [in / G, G, out]
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)  # [in / G, out]
    step = ((high - low) / largest).clamp(min=1e-5)
    scales = step.half()  # rounded now: the numbers are chosen for the scale that will be stored
    zeros = (-low / scales.float()).round().clamp(0, largest)
    q = ((groups / scales.float()[:, None]).round() + zeros[:, None]).clamp(0, largest)
    return GroupQuantized(q.flatten(0, 1).int(), zeros.int(), scales)


def dequantize(quantized: GroupQuantized) -> Tensor:
    """-> the weights [out, in] float32, the way round in which `quantize_groups` takes them."""
    q, zeros, scales = quantized
    groups = q.unflatten(0, (len(zeros), -1)) - zeros[:, None]  # [in / G, G, out]
    return (groups * scales.float()[:, None]).flatten(0, 1).T
