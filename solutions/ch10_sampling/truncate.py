"""Exercise 10.1: Keep the likely: top-k, top-p, min-p."""

from __future__ import annotations

import torch

from minivllm.sampling.logits_processors import NEVER


def apply_min_p(logits: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Drop tokens less likely than `min_p` [R] times the most likely one. logits [R, V] -> [R, V]."""
    threshold = logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]  # log 0 = -inf keeps all
    return logits.masked_fill(logits < threshold, NEVER)


def apply_top_k_top_p(
    logits: torch.Tensor, top_k: torch.Tensor | None, top_p: torch.Tensor | None
) -> torch.Tensor:
    """Keep the `top_k` [R] most likely tokens, and of those the smallest set with probability >= `top_p` [R].

    Equal logits are ranked by id. The kept set goes back to the order of ids, so that a row is drawn alike whether or
    not another row of the batch made the sort necessary. logits [R, V] -> [R, V].
    """
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        rank = torch.arange(logits.shape[-1], device=logits.device)
        ranked = ranked.masked_fill(rank >= top_k[:, None], NEVER)
    if top_p is not None:
        probs = ranked.softmax(dim=-1)
        before = probs.cumsum(dim=-1) - probs  # probability of all better tokens
        beyond = (before >= top_p[:, None]) & (top_p[:, None] < 1)
        beyond[:, 0] = False  # the best always stays, also where float32 makes a tiny top_p 0
        ranked = ranked.masked_fill(beyond, NEVER)
    return torch.empty_like(logits).scatter_(-1, order, ranked)
