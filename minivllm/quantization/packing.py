"""Round to nearest in groups, and the words in which AWQ checkpoints keep the result."""

from typing import NamedTuple

import torch
from torch import Tensor

from minivllm import ops

BITS = 4
PACK = 32 // BITS  # numbers in a word of 32 bits
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word, from the lowest, holds this one of its eight outputs


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


def pack(numbers: Tensor) -> Tensor:
    """[rows, n] of 0 to 15, n a multiple of 8 -> words [rows, n / 8] int32."""
    words = numbers.long().unflatten(-1, (-1, PACK))[..., list(ORDER)]  # [rows, n / 8, nibble]
    packed = (words << torch.arange(0, 32, BITS, device=numbers.device)).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()  # the sign bit of the highest nibble


def unpack(words: Tensor) -> Tensor:
    """Words [rows, n / 8] int32 -> [rows, n] int32 of 0 to 15: what `pack` was given."""
    shifts = torch.arange(0, 32, BITS, dtype=torch.int32, device=words.device)
    nibbles = (words[..., None] >> shifts) & (2**BITS - 1)  # [rows, n / 8, nibble]
    return nibbles[..., [ORDER.index(j) for j in range(PACK)]].flatten(-2)


def pack_checkpoint(quantized: GroupQuantized) -> dict[str, Tensor]:
    """The three tensors of a linear layer in an AWQ checkpoint, by name."""
    q, zeros, scales = quantized
    return {"qweight": pack(q), "qzeros": pack(zeros), "scales": scales}


def unpack_checkpoint(tensors: dict[str, Tensor]) -> Tensor:
    """Back to W [out, in], in the type of the scales."""
    return ops.awq_dequantize(tensors["qweight"], tensors["qzeros"], tensors["scales"]).T
