"""The sampler: one pass over the logits [R, V] of all rows, each with its own parameters.

Order, as in vLLM: the grammar's, allowed and forbidden tokens, bias, penalties, then greedy pick or temperature,
min-p, top-k, top-p, draw. Sources: top-p is Holtzman et al., "The Curious Case of Neural Text Degeneration" (ICLR
2020); min-p is Nguyen et al. (2024).
"""

from __future__ import annotations

import torch

from minivllm.sampling.logits_processors import (
    NEVER,
    add_bias,
    allow_only,
    apply_grammar,
    apply_penalties,
    forbid,
)
from minivllm.sampling.metadata import SamplingMetadata
from minivllm.sampling.random import uniform


class Sampler:
    """Chooses one token for each row."""

    def __call__(self, logits: torch.Tensor, metadata: SamplingMetadata) -> torch.Tensor:
        """Sample.

        Args:
            logits: [R, V], any float type.
            metadata: the R rows' parameters.

        Returns:
            [R] int64 token ids.
        """
        logits = self._process(logits.float(), metadata)
        greedy = logits.argmax(dim=-1)  # the first of equals, that is the lowest id
        if metadata.all_greedy:
            return greedy
        return torch.where(metadata.is_greedy, greedy, self._draw(logits, metadata))

    def _process(self, logits: torch.Tensor, metadata: SamplingMetadata) -> torch.Tensor:
        if metadata.grammar is not None:
            logits = apply_grammar(logits, *metadata.grammar)
        if metadata.allowed is not None:
            logits = allow_only(logits, *metadata.allowed)
        if metadata.forbidden is not None:
            logits = forbid(logits, metadata.forbidden)
        if metadata.bias is not None:
            logits = add_bias(logits, *metadata.bias)
        if metadata.penalties is not None:
            logits = apply_penalties(logits, metadata.penalties)
        return logits

    def _draw(self, logits: torch.Tensor, metadata: SamplingMetadata) -> torch.Tensor:
        temperature = torch.where(metadata.is_greedy, 1.0, metadata.temperature)
        logits = logits / temperature[:, None]
        if metadata.min_p is not None:
            logits = apply_min_p(logits, metadata.min_p)
        if metadata.top_k is not None or metadata.top_p is not None:
            logits = apply_top_k_top_p(logits, metadata.top_k, metadata.top_p)
        random = torch.from_numpy(uniform(metadata.seeds, metadata.positions)).to(logits.device)
        return draw(logits.softmax(dim=-1), random)


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


def draw(probs: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """Inverse of the cumulative distribution: the first token at which it exceeds `random`.

    One random number [R] in [0, 1) for each row suffices, so no draw depends on the size of the vocabulary.
    probs [R, V] -> [R] int64; a token of probability 0 is never chosen.
    """
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    target = random[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=probs.shape[-1] - 1)
