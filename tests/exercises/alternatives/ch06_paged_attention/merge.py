"""The softmax of two: the highest scores themselves are treated as scores of two large positions."""

import torch

from minivllm.attention.blockwise import SoftmaxState


def merge(one: SoftmaxState, other: SoftmaxState) -> SoftmaxState:
    peaks = torch.stack([one.highest, other.highest])  # [2, ..., M]
    highest = peaks.max(0).values
    factors = torch.exp(peaks - highest).nan_to_num(nan=0.0)
    total = (torch.stack([one.total, other.total]) * factors).sum(0)
    acc = (torch.stack([one.acc, other.acc]) * factors.unsqueeze(-1)).sum(0)
    return SoftmaxState(highest, total, acc)
