"""Exercise 10.5: Log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model thought of one position: the chosen token first, then the most likely ones."""

    token_ids: list[int]
    logprobs: list[float]
    rank: int  # of the chosen token, 1 = the most likely


def gather_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_logprobs: np.ndarray
) -> list[TokenLogprobs]:
    """Log-probabilities of chosen and most likely tokens.

    Args:
        logits: [R, V] raw.
        token_ids: [R] the chosen token of each row.
        num_logprobs: [R] how many of the most likely tokens each row wants; 0 = only the chosen one, -1 = all.

    Returns:
        One entry for each row; the chosen token comes first, and again among the most likely if it is one of them.
    """
    logprobs = logits.float().log_softmax(dim=-1)  # [R, V]
    chosen = logprobs.gather(-1, token_ids[:, None])  # [R, 1]
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    vocab_size = logits.shape[-1]
    wanted = np.where(num_logprobs < 0, vocab_size, np.minimum(num_logprobs, vocab_size))
    top = logprobs.topk(int(wanted.max()), dim=-1)
    all_ids = torch.cat([token_ids[:, None], top.indices], dim=-1).tolist()
    all_logprobs = torch.cat([chosen, top.values], dim=-1).tolist()
    return [
        TokenLogprobs(ids[: 1 + count], values[: 1 + count], rank)
        for ids, values, rank, count in zip(
            all_ids, all_logprobs, ranks.tolist(), wanted.tolist(), strict=True
        )
    ]
