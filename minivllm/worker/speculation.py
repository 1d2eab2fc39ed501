"""Speculation inside a step: verify the drafts that were scheduled, then draft for the next step."""

from __future__ import annotations

import numpy as np
import torch

from minivllm.attention.metadata import LayerKVCache
from minivllm.sampling.metadata import GreedyRows, SamplingMetadata, SamplingRows
from minivllm.sampling.sampler import Sampler
from minivllm.spec_decode.draft_length import draft_lengths
from minivllm.spec_decode.proposer import DraftStep, Proposer
from minivllm.spec_decode.rejection_sampler import NO_DRAFT, Rule, leading, one_hot, rejection_sample, verify
from minivllm.speculative_config import SpeculativeConfig
from minivllm.worker.input_batch import InputBatch
from minivllm.worker.step_layout import SampledPositions, StepLayout


class Speculation:
    """Stands between the runner and whoever drafts. `rule` decides which drafts are kept."""

    def __init__(
        self,
        config: SpeculativeConfig,
        proposer: Proposer,
        batch: InputBatch,
        sampler: Sampler,
        rule: Rule = rejection_sample,
    ) -> None:
        self.config, self.proposer, self.batch, self.sampler = config, proposer, batch, sampler
        self._rule = rule
        self._draft_probs: dict[str, torch.Tensor] = {}  # request id -> [m, V], until its drafts are verified

    def verify(
        self, logits: torch.Tensor, metadata: SamplingMetadata, positions: SampledPositions
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Tokens [n] of the positions, and which of them count [n]: the accepted drafts and one token more.

        logits [n, V].
        """
        drafts = self._drafts_behind(positions)
        probs = None if metadata.all_greedy else self._probs_of(drafts, positions, logits)
        verdict = verify(self.sampler, logits, metadata, drafts, probs, self._rule)
        kept = leading(verdict.is_accepted.cpu().numpy(), positions.counts)
        self._count_rejected(kept, positions)
        return verdict.token_ids, kept

    def propose(
        self,
        layout: StepLayout,
        sampled_rows: np.ndarray,
        hidden: torch.Tensor,
        sampling_rows: SamplingRows | GreedyRows,
    ) -> dict[str, list[int]]:
        """Request id -> drafts for the next step.

        `sampled_rows` [n]: the row of each token that this step has said; `hidden` [n, hidden]: what it was drawn from.
        """
        batch = self.batch
        self._draft_probs = {i: probs for i, probs in self._draft_probs.items() if i in batch.rows}
        step = DraftStep(
            rows=layout.rows,
            num_computed=layout.num_computed,
            num_scheduled=layout.num_scheduled,
            max_drafts=self._max_drafts(layout, sampled_rows),
            token_ids=batch.token_ids,
            num_tokens=batch.num_tokens,
            block_tables=batch.block_tables,
            sampling_rows=sampling_rows,
            hidden=hidden,
            hidden_rows=sampled_rows,
        )
        found = {}
        for row, draft in self.proposer.propose(step).items():
            request_id = batch.requests[row].request_id
            found[request_id] = draft.token_ids
            self._draft_probs.pop(request_id, None)
            if draft.probs is not None:
                self._draft_probs[request_id] = draft.probs
        return found

    def bind_kv_caches(self, kv_caches: list[LayerKVCache], max_model_len: int) -> None:
        """Hand over the caches of the proposer's layers."""
        self.proposer.bind_kv_caches(kv_caches, max_model_len)

    def _drafts_behind(self, positions: SampledPositions) -> np.ndarray:
        """[n] the draft that each position's token is compared with: what was fed to the position behind it."""
        batch, rows = self.batch, positions.rows
        drafts = np.full(len(rows), NO_DRAFT, dtype=np.int64)
        has_next = positions.offset[1:] > 0
        places = np.flatnonzero(has_next)
        drafts[places] = batch.token_ids[
            rows[places], batch.num_tokens[rows[places]] + positions.offset[places]
        ]
        return drafts

    def _probs_of(
        self, drafts: np.ndarray, positions: SampledPositions, logits: torch.Tensor
    ) -> torch.Tensor | None:
        if not self._draft_probs:
            return None
        probs = one_hot(torch.from_numpy(drafts).to(logits.device), logits.shape[-1])
        ends = positions.counts.cumsum()
        for end, count in zip(ends.tolist(), positions.counts.tolist(), strict=True):
            drawn = self._draft_probs.get(self.batch.requests[positions.rows[end - 1]].request_id)
            if drawn is not None:
                probs[end - count : end - 1] = drawn[: count - 1]
        return probs

    def _count_rejected(self, kept: np.ndarray, positions: SampledPositions) -> None:
        np.add.at(self.batch.num_rejected, positions.rows, ~kept)

    def _max_drafts(self, layout: StepLayout, sampled_rows: np.ndarray) -> np.ndarray:
        """[R] how many tokens to draft: none before a prompt is done, none beyond the request's end or its slots."""
        batch, rows = self.batch, layout.rows
        requests = [batch.requests[row] for row in rows]
        num_known = batch.num_tokens[rows].astype(np.int64)
        ends = np.array([r.num_prompt_tokens + r.max_tokens for r in requests])
        num_generated = num_known - np.array([r.num_prompt_tokens for r in requests])
        wanted = draft_lengths(
            self.config.num_speculative_tokens,
            self.config.max_rejected_per_token,
            num_generated,
            batch.num_rejected[rows],
        )
        most = np.minimum(wanted, ends - num_known - 1)
        if self.proposer.kv_cache_specs():
            computed = layout.num_computed + layout.num_scheduled
            most = np.minimum(most, computed + layout.num_lookahead - (num_known - 1))
        is_sampled = np.isin(rows, sampled_rows)
        is_ordinary = np.array([not (r.is_beam or r.is_pooling) for r in requests])
        return np.where(is_sampled & is_ordinary, np.maximum(most, 0), 0)
