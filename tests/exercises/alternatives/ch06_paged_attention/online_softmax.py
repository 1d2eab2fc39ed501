"""One position after the other, on logarithms: the sum is kept as log(total) + highest."""

import torch
from torch import Tensor

from minivllm.attention.blockwise import SoftmaxState


def absorb(state: SoftmaxState, scores: Tensor, values: Tensor) -> SoftmaxState:
    log_old = state.highest + torch.log(state.total)  # -inf where nothing was seen
    log_new = torch.logsumexp(torch.cat([log_old.unsqueeze(-1), scores], -1), -1)
    highest = torch.maximum(state.highest, scores.max(-1).values)
    total = torch.nan_to_num(torch.exp(log_new - highest), nan=0.0)
    acc = state.acc * torch.nan_to_num(torch.exp(state.highest - highest), nan=0.0).unsqueeze(-1)
    for i in range(scores.shape[-1]):
        weight = torch.nan_to_num(torch.exp(scores[..., i] - highest), nan=0.0)
        acc = acc + weight.unsqueeze(-1) * values[..., i : i + 1, :]
    return SoftmaxState(highest, total, acc)


def finish(state: SoftmaxState) -> Tensor:
    return torch.nan_to_num(state.acc / state.total.unsqueeze(-1), nan=0.0)
