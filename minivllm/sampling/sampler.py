"""The sampler: one pass over the logits [R, V] of all rows, each with its own parameters.

Order, as in vLLM: the grammar's, allowed and forbidden tokens, bias, penalties, then greedy pick or temperature,
min-p, top-k, top-p, draw. Sources: top-p is Holtzman et al., "The Curious Case of Neural Text Degeneration" (ICLR
2020); min-p is Nguyen et al. (2024).
"""

from __future__ import annotations

import torch

from minivllm import ops
from minivllm.parts import REFERENCE, Parts
from minivllm.sampling.logits_processors import (
    NEVER,
    add_bias,
    allow_only,
    apply_grammar,
    apply_penalties,
    forbid,
)
from minivllm.sampling.metadata import SamplingMetadata
from minivllm.sampling.random import DRAW, uniform


class Sampler:
    """Chooses one token for each row. `parts` may replace the functions below and `apply_penalties`."""

    def __init__(self, parts: Parts = REFERENCE) -> None:
        self._greedy_pick = parts.greedy_pick or ops.argmax  # the faster twin of greedy_pick
        self._apply_penalties = parts.apply_penalties or apply_penalties
        self._apply_min_p = parts.apply_min_p or apply_min_p
        self._apply_top_k_top_p = parts.apply_top_k_top_p or cut_by_threshold  # of apply_top_k_top_p
        self._draw_token = parts.draw or draw

    def __call__(self, logits: torch.Tensor, metadata: SamplingMetadata) -> torch.Tensor:
        """Sample.

        Args:
            logits: [R, V], any float type.
            metadata: the R rows' parameters.

        Returns:
            [R] int64 token ids.
        """
        logits = self._process(logits.float(), metadata)
        greedy = self._greedy_pick(logits)
        if metadata.all_greedy:
            return greedy
        drawn = self.draw(self._warp(logits, metadata).softmax(dim=-1), metadata)
        return torch.where(metadata.is_greedy, greedy, drawn)

    def probabilities(self, logits: torch.Tensor, metadata: SamplingMetadata) -> torch.Tensor:
        """The distribution that `__call__` draws from; all of it on one token where a row is greedy.

        logits [R, V] -> [R, V] float32.
        """
        logits = self._process(logits.float(), metadata)
        picked = torch.zeros_like(logits).scatter_(1, self._greedy_pick(logits)[:, None], 1.0)
        if metadata.all_greedy:
            return picked
        probs = self._warp(logits, metadata).softmax(dim=-1)
        return torch.where(metadata.is_greedy[:, None], picked, probs)

    def draw(self, probs: torch.Tensor, metadata: SamplingMetadata, stream: int = DRAW) -> torch.Tensor:
        """A token of each row of probs [R, V], which need not add up to 1, by the row's seed and position -> [R]."""
        random = torch.from_numpy(uniform(metadata.seeds, metadata.positions, stream)).to(probs.device)
        return self._draw_token(probs, random)

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
            logits = self._apply_penalties(logits, metadata.penalties)
        return logits

    def _warp(self, logits: torch.Tensor, metadata: SamplingMetadata) -> torch.Tensor:
        temperature = torch.where(metadata.is_greedy, 1.0, metadata.temperature)
        logits = logits / temperature[:, None]
        if metadata.min_p is not None:
            logits = self._apply_min_p(logits, metadata.min_p)
        if metadata.top_k is not None or metadata.top_p is not None:
            logits = self._apply_top_k_top_p(logits, metadata.top_k, metadata.top_p)
        return logits


def greedy_pick(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token of each row, the one with the lowest id among equals. logits [R, V] -> [R] int64."""
    return logits.argmax(dim=-1)  # the first of equals


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


FEW = 128  # the most likely tokens that cut_by_threshold looks at


def cut_by_threshold(
    logits: torch.Tensor, top_k: torch.Tensor | None, top_p: torch.Tensor | None
) -> torch.Tensor:
    """As apply_top_k_top_p, bit for bit, without sorting the vocabulary. logits [R, V] -> [R, V].

    The last token that is kept is a threshold, and nearly always among the most likely few. A row of which the few do
    not tell it is sorted after all: too many are kept, the next logit is the same, or a sum rounded in another order
    might decide otherwise.
    """
    vocab_size = logits.shape[-1]
    if not logits.is_cpu or vocab_size < 4 * FEW:  # the question whether all is settled would stop a GPU
        return apply_top_k_top_p(logits, top_k, top_p)
    k = torch.full((len(logits),), vocab_size) if top_k is None else top_k
    p = torch.ones(len(logits)) if top_p is None else top_p
    best = logits.topk(FEW + 1).values  # [R, FEW + 1]
    kept = torch.arange(FEW + 1) < k[:, None]
    has_all = k >= vocab_size
    is_settled = has_all | (k <= FEW)
    if top_p is not None:
        total = torch.where(has_all, logits.logsumexp(-1), best.where(kept, NEVER).logsumexp(-1))
        probs = (best.double() - total[:, None]).exp()
        distance = probs.cumsum(-1) - probs - p[:, None]  # from top_p to the probability of all better tokens
        kept &= (distance < 0) | (p[:, None] >= 1)
        rounding = 1e-6 + vocab_size * 2.0**-28
        is_settled &= ((distance.abs() > rounding) | (p[:, None] >= 1)).all(-1)
    count = kept.sum(-1, keepdim=True).clamp_(1, FEW)
    threshold, below = best.gather(1, count - 1), best.gather(1, count)  # [R, 1]
    is_settled &= (kept[:, -1] == 0) & ((threshold > below).squeeze(1) | (below == NEVER).squeeze(1))
    is_off = has_all & (p >= 1)
    result = logits.masked_fill((logits < threshold) & ~is_off[:, None], NEVER)
    if (rest := (~(is_settled | is_off)).nonzero().squeeze(1)).numel():
        result[rest] = apply_top_k_top_p(
            logits[rest], top_k if top_k is None else top_k[rest], top_p if top_p is None else top_p[rest]
        )
    return result
