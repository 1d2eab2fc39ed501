"""Exercise 10.3: A draw from one random number."""

from __future__ import annotations

import torch


def draw(probs: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """Inverse of the cumulative distribution: the first token at which it exceeds `random`.

    One random number [R] in [0, 1) for each row suffices, so no draw depends on the size of the vocabulary.
    probs [R, V] -> [R] int64; a token of probability 0 is never chosen.
    """
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    target = random[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=probs.shape[-1] - 1)
