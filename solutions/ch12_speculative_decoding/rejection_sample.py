"""Exercise 12.2: Keep a draft, or draw another token."""

from __future__ import annotations

import torch
from typing import NamedTuple


NO_DRAFT = -1


class Decision(NamedTuple):
    """What the rule says about n positions."""

    is_accepted: torch.Tensor  # [n] bool: the draft is kept
    weights: torch.Tensor  # [n, V] where it is not, a token is drawn in proportion to these


def rejection_sample(
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    draft_token_ids: torch.Tensor,
    accept_random: torch.Tensor,
) -> Decision:
    """Keep each draft or not, and say what to draw from instead. Position by position, each as if it were alone.

    Args:
        target_probs: [n, V] what the model thinks.
        draft_probs: [n, V] what each draft was drawn from; all on one token for a draft that was not drawn; all 0 where
        there is no draft, so that the token is drawn from the model's own distribution.
        draft_token_ids: [n] int64, NO_DRAFT where there is none.
        accept_random: [n] in [0, 1).
    """
    x = draft_token_ids.clamp(min=0)[:, None]
    p, q = target_probs.gather(1, x)[:, 0], draft_probs.gather(1, x)[:, 0]  # [n]
    is_accepted = (draft_token_ids != NO_DRAFT) & (accept_random * q < p)
    residual = (target_probs - draft_probs).clamp(min=0)  # [n, V]
    is_lost = residual.sum(dim=-1, keepdim=True) == 0  # p = q but for rounding
    return Decision(is_accepted, torch.where(is_lost, target_probs, residual))
