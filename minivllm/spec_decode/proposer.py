"""What drafts tokens: the interface, and what stands on both its sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from minivllm.attention.metadata import LayerKVCache
from minivllm.model_config import KVCacheSpec
from minivllm.sampling.metadata import GreedyRows, SamplingRows


@dataclass(frozen=True)
class DraftStep:
    """What a step that has just been sampled leaves behind, for its R requests."""

    rows: np.ndarray  # [R] row in the arrays below
    num_computed: np.ndarray  # [R] tokens in the KV cache before the step
    num_scheduled: np.ndarray  # [R] tokens that the step computed
    max_drafts: np.ndarray  # [R] how many tokens may be drafted; 0 = none
    token_ids: (
        np.ndarray
    )  # [max_num_seqs, max_model_len] known tokens; what lies behind them may be overwritten
    num_tokens: np.ndarray  # [max_num_seqs] how many are known, with what was sampled just now
    block_tables: np.ndarray  # [max_num_seqs, max_blocks]
    sampling_rows: SamplingRows | GreedyRows
    hidden: (
        torch.Tensor
    )  # [n, hidden] what the model made of each position that counts, and drew a token from
    hidden_rows: (
        np.ndarray
    )  # [n] whose it is: a request's positions stand together, the requests as in `rows`

    def newest_hidden(self) -> torch.Tensor:
        """[m, hidden] of the m requests that drafts are wanted for: the state that their newest token was drawn from.

        It is always there: who gets drafts has got a token in this very step, so the position before it was computed.
        """
        ends = np.flatnonzero(np.diff(self.hidden_rows, append=-1))  # the last position of each request
        wanted = ends[np.isin(self.hidden_rows[ends], self.rows[self.max_drafts > 0])]
        return self.hidden[torch.from_numpy(wanted).to(self.hidden.device)]


@dataclass(frozen=True)
class Draft:
    """Tokens for one request, and what they were drawn from."""

    token_ids: list[int]
    probs: torch.Tensor | None = None  # [m, V]; None = nothing was drawn by chance


class Proposer(Protocol):
    """Drafts tokens. They may be anything: a bad guess costs time, and never changes an answer."""

    def kv_cache_specs(self) -> Sequence[KVCacheSpec]:
        """The layers that it adds to the model's, under the same block ids."""

    def bind_kv_caches(self, kv_caches: Sequence[LayerKVCache], max_model_len: int) -> None:
        """Take over the caches of these layers, before the first step.

        Raises:
            ValueError: it cannot read so long a context.
        """

    def propose(self, step: DraftStep) -> dict[int, Draft]:
        """Row -> at most its `max_drafts` drafts; rows without any are left out."""
