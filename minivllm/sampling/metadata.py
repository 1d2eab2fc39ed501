"""SamplingMetadata: the sampling parameters of the rows of one step, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minivllm.request import Request


@dataclass(frozen=True)
class SamplingMetadata:
    """Parameters of R rows. An optional tensor is None when no row uses it, so that its whole pass is skipped."""

    temperature: torch.Tensor  # [R] float32; 0 = greedy
    is_greedy: torch.Tensor  # [R] bool
    all_greedy: bool
    top_k: torch.Tensor | None  # [R] int64, V = off
    top_p: torch.Tensor | None  # [R] float32, 1 = off
    min_p: torch.Tensor | None  # [R] float32, 0 = off
    seeds: np.ndarray  # [R] int64
    positions: np.ndarray  # [R] int64, tokens generated so far
    forbidden: tuple[torch.Tensor, torch.Tensor] | None  # (row, token id) pairs that must not be drawn


class SamplingRows:
    """The parameters of all running requests, gathered once for each composition of the batch."""

    def __init__(self, requests: Sequence[Request], vocab_size: int, device: torch.device) -> None:
        self.device = device
        self.vocab_size = vocab_size
        self.num_prompt_tokens = np.array([r.num_prompt_tokens for r in requests], dtype=np.int64)
        params = [r.sampling_params for r in requests]
        self.temperature = np.array([p.temperature for p in params], dtype=np.float32)
        self.top_k = np.array([min(p.top_k, vocab_size) or vocab_size for p in params], dtype=np.int64)
        self.top_p = np.array([p.top_p for p in params], dtype=np.float32)
        self.min_p = np.array([p.min_p for p in params], dtype=np.float32)
        self.seeds = np.array([r.seed for r in requests], dtype=np.int64)
        self.min_tokens = np.array([p.min_tokens for p in params], dtype=np.int64)
        self.stop_token_ids = [sorted(r.stop_token_ids) for r in requests]

    def select(self, rows: np.ndarray, num_tokens: np.ndarray) -> SamplingMetadata:
        """The metadata of `rows` [R], of which `num_tokens` [R] tokens are known."""
        temperature = self.temperature[rows]
        positions = num_tokens.astype(np.int64) - self.num_prompt_tokens[rows]
        return SamplingMetadata(
            temperature=torch.from_numpy(temperature).to(self.device),
            is_greedy=torch.from_numpy(temperature == 0).to(self.device),
            all_greedy=bool((temperature == 0).all()),
            top_k=self._optional(self.top_k[rows], self.vocab_size),
            top_p=self._optional(self.top_p[rows], 1.0),
            min_p=self._optional(self.min_p[rows], 0.0),
            seeds=self.seeds[rows],
            positions=positions,
            forbidden=self._stop_tokens_too_early(rows, positions),
        )

    def _optional(self, values: np.ndarray, off: float) -> torch.Tensor | None:
        return None if (values == off).all() else torch.from_numpy(values).to(self.device)

    def _stop_tokens_too_early(
        self, rows: np.ndarray, positions: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A request may not draw a token that would end it before it has `min_tokens`."""
        early = np.flatnonzero(positions < self.min_tokens[rows])
        pairs = [(index, token_id) for index in early for token_id in self.stop_token_ids[rows[index]]]
        if not pairs:
            return None
        indices, token_ids = torch.tensor(pairs, device=self.device).unbind(1)
        return indices, token_ids
