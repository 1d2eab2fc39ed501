"""One group of one output after the other; dequantizing repeats the zero points and scales for every input."""

from typing import NamedTuple

import torch
from torch import Tensor

BITS = 4


class GroupQuantized(NamedTuple):
    q: Tensor
    zeros: Tensor
    scales: Tensor


def quantize_groups(weight, group_size, bits=BITS):
    num_out, num_in = weight.shape
    numbers = torch.zeros(num_in, num_out, dtype=torch.int32)
    zeros = torch.zeros(num_in // group_size, num_out, dtype=torch.int32)
    scales = torch.zeros(num_in // group_size, num_out, dtype=torch.float16)
    for output in range(num_out):
        for group, begin in enumerate(range(0, num_in, group_size)):
            part = weight[output, begin : begin + group_size].double()
            both_ends = [0.0, *part.tolist()]
            step = max((max(both_ends) - min(both_ends)) / (2**bits - 1), 1e-5)
            scale = torch.tensor(step).half()
            zero = min(max(round(-min(both_ends) / float(scale)), 0), 2**bits - 1)
            grid = (torch.arange(2**bits) - zero) * float(scale)
            numbers[begin : begin + group_size, output] = (part[:, None] - grid).abs().argmin(1).int()
            zeros[group, output], scales[group, output] = zero, scale
    return GroupQuantized(numbers, zeros, scales)


def dequantize(quantized):
    q, zeros, scales = quantized
    size = len(q) // len(zeros)
    return ((q - zeros.repeat_interleave(size, 0)) * scales.float().repeat_interleave(size, 0)).T
