"""A small model drafts for a large one: it reads what the large one has read, and guesses on.

Both write into the same blocks: the draft model's layers are further layers of the KV cache, so a block id stands for
the same tokens in both, and sharing, copying and swapping a block serve both. In a step the draft model runs once over
the tokens that the model has just computed, without the rejected drafts and with the new token, and then once for each
further draft. So it holds keys and values wherever the model does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.config import EngineConfig, ModelConfig, resolve_model
from minivllm.model_config import KVCacheSpec
from minivllm.models.decoder import DecoderModel
from minivllm.models.loader import load_model
from minivllm.ops import AttentionBackend
from minivllm.sampling.random import DRAFT
from minivllm.sampling.sampler import Sampler
from minivllm.spec_decode.proposer import Draft, DraftStep


def load_draft_model(
    config: EngineConfig,
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    backend: AttentionBackend,
    sampler: Sampler,
) -> DraftModelProposer:
    """Load the model that `config` names.

    Raises:
        ValueError: there is no such model, or it does not suit the large one.
    """
    assert config.speculation is not None and config.speculation.model is not None
    name = config.speculation.model
    draft_config = ModelConfig.from_pretrained(resolve_model(name))
    if draft_config.vocab_size != model_config.vocab_size:
        raise ValueError(
            f"speculative_config.model {name!r} knows {draft_config.vocab_size} tokens, and the model "
            f"{model_config.vocab_size}: both must have the same vocabulary"
        )
    if all(window is not None for window in model_config.layer_windows):
        raise ValueError(
            "speculative_config method draft_model needs a model that sees its whole context, and every layer of this "
            "one has a sliding window: use ngram"
        )
    model = load_model(
        draft_config,
        dtype,
        device,
        backend=backend,
        load_format=config.load_format,
        seed=config.seed,
        pack=True,
    )
    return DraftModelProposer(model, draft_config.max_position_embeddings, config.block_size, device, sampler)


class DraftModelProposer:
    """Drafts by running a model of its own."""

    def __init__(
        self,
        model: DecoderModel,
        max_position_embeddings: int,
        block_size: int,
        device: torch.device,
        sampler: Sampler,
    ) -> None:
        self.model, self.max_position_embeddings = model, max_position_embeddings
        self.block_size, self.device, self.sampler = block_size, device, sampler
        self.kv_caches: list[LayerKVCache] = []

    def kv_cache_specs(self) -> list[KVCacheSpec]:
        """Its layers."""
        return self.model.kv_cache_specs()

    def bind_kv_caches(self, kv_caches: Sequence[LayerKVCache], max_model_len: int) -> None:
        """Take over the caches of these layers."""
        if max_model_len > self.max_position_embeddings:
            raise ValueError(
                f"max_model_len ({max_model_len}) must be at most {self.max_position_embeddings}, the "
                "max_position_embeddings of the draft model"
            )
        self.kv_caches = list(kv_caches)

    def propose(self, step: DraftStep) -> dict[int, Draft]:
        """Read what is new, and where drafts are wanted guess on."""
        known = step.num_tokens[step.rows].astype(np.int64)  # [R]
        wants = step.max_drafts > 0
        read = np.minimum(
            step.num_computed + step.num_scheduled, known - 1
        )  # what was sampled just now is not in it
        ends = np.where(wants, known, read)
        hidden = self._forward(step, step.rows, step.num_computed, ends)
        drafting = np.flatnonzero(wants)  # [m] which of the R requests
        last = (ends - step.num_computed).cumsum()[drafting] - 1  # [m] in the flat batch
        drafts: dict[int, list[int]] = {}
        probs: dict[int, list[torch.Tensor]] = {}
        for index in range(int(step.max_drafts.max(initial=0))):
            rows = step.rows[drafting]
            token_ids, drawn_from = self._guess(
                hidden[torch.from_numpy(last).to(self.device)], step, rows, index
            )
            step.token_ids[rows, known[drafting] + index] = token_ids
            for i, row in enumerate(rows.tolist()):
                drafts.setdefault(row, []).append(int(token_ids[i]))
                if i in drawn_from:
                    probs.setdefault(row, []).append(drawn_from[i])
            drafting = drafting[step.max_drafts[drafting] > index + 1]
            if not len(drafting):
                break
            start = known[drafting] + index
            hidden = self._forward(step, step.rows[drafting], start, start + 1)
            last = np.arange(len(drafting))
        return {
            row: Draft(tokens, torch.stack(probs[row]) if row in probs else None)
            for row, tokens in drafts.items()
        }

    def _guess(
        self, hidden: torch.Tensor, step: DraftStep, rows: np.ndarray, index: int
    ) -> tuple[np.ndarray, dict[int, torch.Tensor]]:
        """Draft number `index` of each row, by the row's own parameters.

        Returns:
            The tokens [m], and of each that was drawn by chance (a greedy row's is not) what it was drawn from: its
            index among the m -> [V].
        """
        logits = self.model.compute_logits(hidden)  # [m, V]
        metadata = step.sampling_rows.select(rows, step.num_tokens, index, step.token_ids)
        if metadata.all_greedy:
            return self.sampler(logits, metadata).cpu().numpy(), {}
        probs = self.sampler.probabilities(logits, metadata)
        by_chance = (~metadata.is_greedy).nonzero().flatten().tolist()
        return self.sampler.draw(probs, metadata, DRAFT).cpu().numpy(), {i: probs[i] for i in by_chance}

    def _forward(
        self, step: DraftStep, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> torch.Tensor:
        """Run over positions [starts, ends) of each row -> hidden states [T, hidden], one row behind the other."""
        counts = ends - starts
        query_start_loc = np.concatenate(([0], counts.cumsum()))
        row_of_token = np.repeat(rows, counts)  # [T]
        positions = np.arange(len(row_of_token)) - np.repeat(query_start_loc[:-1] - starts, counts)  # [T]
        blocks = step.block_tables[row_of_token, positions // self.block_size].astype(np.int64)
        num_blocks = -(-int(ends.max()) // self.block_size)
        metadata = AttentionMetadata(
            slot_mapping=self._tensor(blocks * self.block_size + positions % self.block_size),
            query_start_loc=self._tensor(query_start_loc.astype(np.int32)),
            seq_lens=self._tensor(ends.astype(np.int32)),
            block_tables=self._tensor(step.block_tables[rows, :num_blocks]),
            max_query_len=int(counts.max()),
            max_seq_len=int(ends.max()),
            block_size=self.block_size,
        )
        input_ids = self._tensor(step.token_ids[row_of_token, positions].astype(np.int64))
        return self.model.forward(
            self.model.embed(input_ids), self._tensor(positions), self.kv_caches, metadata
        )

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)
