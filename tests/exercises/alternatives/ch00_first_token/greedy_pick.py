"""By hand: mark the places of the maximum, and take the lowest."""

import torch


def greedy_pick(logits: torch.Tensor) -> torch.Tensor:
    ids = torch.arange(logits.shape[-1], device=logits.device)
    is_largest = logits == logits.amax(dim=-1, keepdim=True)
    return torch.where(is_largest, ids, logits.shape[-1]).amin(dim=-1)
