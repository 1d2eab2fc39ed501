"""Exercise 6.2: The online softmax."""

import torch
from torch import Tensor

from minivllm.attention.blockwise import NOTHING, SoftmaxState


def absorb(state: SoftmaxState, scores: Tensor, values: Tensor) -> SoftmaxState:
    """Take S more positions into the state.

    Args:
        state: what the rows know so far; it is not changed.
        scores: [..., M, S]; -inf where a row may not look.
        values: [..., S, D].
    """
    highest = torch.maximum(state.highest, scores.amax(-1))  # [..., M]
    shift = torch.where(highest == NOTHING, 0.0, highest)  # a row that has seen nothing: no inf - inf
    weights = torch.exp(scores - shift.unsqueeze(-1))  # [..., M, S]
    rescale = torch.exp(state.highest - shift)  # [..., M]
    total = state.total * rescale + weights.sum(-1)
    acc = state.acc * rescale.unsqueeze(-1) + weights @ values
    return SoftmaxState(highest, total, acc)


def finish(state: SoftmaxState) -> Tensor:
    """The attention output [..., M, D]; zeros for a row that has seen nothing."""
    return state.acc / torch.where(state.total > 0, state.total, 1.0).unsqueeze(-1)
