"""Exercise 6.3: Merge two partial states."""

import torch

from minivllm.attention.blockwise import NOTHING, SoftmaxState


def merge(one: SoftmaxState, other: SoftmaxState) -> SoftmaxState:
    """The state of rows that have seen two disjoint parts of their context, in any order."""
    highest = torch.maximum(one.highest, other.highest)
    shift = torch.where(highest == NOTHING, 0.0, highest)
    factors = torch.exp(one.highest - shift), torch.exp(other.highest - shift)
    total = one.total * factors[0] + other.total * factors[1]
    acc = one.acc * factors[0].unsqueeze(-1) + other.acc * factors[1].unsqueeze(-1)
    return SoftmaxState(highest, total, acc)
