"""The rule by which drafts are kept: what comes out is distributed exactly as if the model had drawn it alone.

A draft x, drawn from the drafter's distribution q, is kept with probability min(1, p(x) / q(x)), where p is what the
model thinks at that position. If it is not kept, another token is drawn from what p has more than q. Over both ways a
token x comes out with probability

    min(p(x), q(x)) + (1 - sum_y min(p(y), q(y))) * max(p(x) - q(x), 0) / sum_y max(p(y) - q(y), 0) = p(x)

as what the first sum lacks of 1 is the second. Sources: Leviathan, Kalman, Matias, "Fast Inference from Transformers
via Speculative Decoding" (ICML 2023), section 2.3 and appendix A.1; Chen et al., "Accelerating Large Language Model
Decoding with Speculative Sampling" (2023), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from minivllm.sampling.metadata import SamplingMetadata
from minivllm.sampling.random import ACCEPT, uniform
from minivllm.sampling.sampler import Sampler

NO_DRAFT = -1


class Decision(NamedTuple):
    """What the rule says about n positions."""

    is_accepted: torch.Tensor  # [n] bool: the draft is kept
    weights: torch.Tensor  # [n, V] where it is not, a token is drawn in proportion to these


class Verdict(NamedTuple):
    """What verification says about n positions."""

    token_ids: torch.Tensor  # [n] int64
    is_accepted: torch.Tensor  # [n] bool: the token is the draft


Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


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


def verify(
    sampler: Sampler,
    logits: torch.Tensor,
    metadata: SamplingMetadata,
    draft_token_ids: np.ndarray,
    draft_probs: torch.Tensor | None,
    rule: Rule = rejection_sample,
) -> Verdict:
    """Verify the drafts of a step. A greedy row's distribution is all on one token: the rule keeps exactly that one.

    Args:
        sampler: makes the model's distribution, penalties and all.
        logits: [n, V] raw, one row for each draft and one more behind the last draft of a request.
        metadata: of these n rows.
        draft_token_ids: [n] int64, NO_DRAFT behind the last.
        draft_probs: [n, V] as in `rejection_sample`; None = no draft was drawn by chance.
        rule: `rejection_sample`, or what stands in its place.
    """
    drafts = torch.from_numpy(draft_token_ids).to(logits.device)
    if metadata.all_greedy:  # the same without any probabilities
        token_ids = sampler(logits, metadata)
        return Verdict(token_ids, token_ids == drafts)
    if draft_probs is None:
        draft_probs = one_hot(drafts, logits.shape[-1])
    random = torch.from_numpy(uniform(metadata.seeds, metadata.positions, ACCEPT)).to(logits.device)
    is_accepted, weights = rule(sampler.probabilities(logits, metadata), draft_probs, drafts, random)
    return Verdict(torch.where(is_accepted, drafts, sampler.draw(weights, metadata)), is_accepted)


def one_hot(draft_token_ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """[n] -> [n, V] float32: 1 at the draft, nothing where there is none."""
    is_draft = (draft_token_ids != NO_DRAFT)[:, None]
    zeros = torch.zeros(len(draft_token_ids), vocab_size, device=draft_token_ids.device)
    return zeros.scatter_(1, draft_token_ids.clamp(min=0)[:, None], is_draft.float())


def leading(is_accepted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which positions count: of each request those up to the first that was not accepted, that one included.

    Args:
        is_accepted: [n] bool, the requests' positions one behind the other.
        counts: [R] how many positions each request has; their sum is n.

    Returns:
        [n] bool.
    """
    rejected = np.concatenate(([0], (~is_accepted).cumsum()))  # [n + 1] rejections before each position
    first = np.repeat(counts.cumsum() - counts, counts)  # [n] where the position's request begins
    kept: np.ndarray = rejected[:-1] == rejected[first]
    return kept
