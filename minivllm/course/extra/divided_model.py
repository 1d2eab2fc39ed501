"""A real model, divided among ranks that are threads of this process: one forward pass, and the messages it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.model_config import ModelConfig
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend
from minivllm.parallel.plan import Plan
from minivllm.parallel.threads import Ranks

BLOCK_SIZE = 16


class DividedModel:
    """One share of the model for each rank of a plan.

    Args:
        model: a folder, or a hub id.
        plan: how it is divided; a number is that many tensor parallel ranks.
        options: further arguments of `load_model`, such as load_format="dummy".
    """

    def __init__(self, model: str, plan: Plan | int, **options: Any) -> None:
        self.config = ModelConfig.from_pretrained(model)
        self.ranks = Ranks(plan)
        backend = attention_backend("torch")
        self.shares = [
            load_model(self.config, torch.float32, "cpu", backend=backend, tp=tp, pp=pp, **options)
            for tp, pp in zip(self.ranks.tp, self.ranks.pp, strict=True)
        ]

    def logits(self, texts: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """The logits [T, V] of each text, on each rank of the last stage. Each text is a micro-batch of its own."""

        def work(rank: int) -> list[Tensor]:
            return [self._forward(rank, text) for text in texts]

        last = self.ranks.plan.output_rank
        return self.ranks.run(work)[last:]

    def _forward(self, rank: int, text: Sequence[int]) -> Tensor:
        share, pp = self.shares[rank], self.ranks.pp[rank]
        num_blocks = -(-len(text) // BLOCK_SIZE)
        table = list(range(1, num_blocks + 1))
        metadata = AttentionMetadata.from_lists([len(text)], [len(text)], [table], BLOCK_SIZE)
        caches = [self._cache(spec, num_blocks + 1) for spec in share.kv_cache_specs()]
        if pp.is_first:
            x = share.embed(torch.tensor(text))
        else:
            x = pp.receive(torch.empty(len(text), self.config.hidden_size))
        hidden = share(x, torch.arange(len(text)), caches, metadata)
        if pp.is_last:
            return share.compute_logits(hidden)
        pp.send(hidden)
        return hidden

    @staticmethod
    def _cache(spec: Any, num_blocks: int) -> LayerKVCache:
        shape = (num_blocks, BLOCK_SIZE, spec.num_kv_heads, spec.head_size)
        return LayerKVCache(torch.zeros(shape), torch.zeros(shape))
