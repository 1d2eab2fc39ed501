"""Exercise 12.2: Keep a draft, or draw another token. (implement, about 25 minutes)

The rule that makes speculation exact. A drafter has drawn a token x from its own distribution q.
The model would have drawn from p. Decide whether x is kept, and if it is not, from what another
token is to be drawn, such that over both ways each token comes out with probability p, exactly,
whatever q is.

Work on n positions at once. For each of them: is the draft kept, and what would be drawn from
instead? `accept_random` brings one random number for each position; the drawing itself is done by
the caller, with `weights`, which need not add up to 1. The caller draws for every position, also
where the draft is kept, so all weights must be fit for that.

Where there is no draft (NO_DRAFT, with all of q 0), nothing is kept and the weights are p.

Check: python -m minivllm.course check 12.2     (or: python -m pytest exercises/ch12_speculative_decoding/rejection_sample.py)
Stuck: python -m minivllm.course hint 12.2
"""

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
    raise NotImplementedError("exercise 12.2: rejection_sample")
