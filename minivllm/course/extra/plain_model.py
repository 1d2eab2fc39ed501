"""A shipped model without the engine: token ids in, logits out, and attention is whatever function it is given.

For chapters 01 and 02, whose functions run in the real model long before there are blocks and batches. What this is
not: fast, or able to serve two texts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from minivllm import zoo
from minivllm.attention.metadata import AttentionMetadata
from minivllm.model_config import ModelConfig
from minivllm.models.loader import load_model
from minivllm.ops import AttentionBackend

# (query [T, H, D], key [S, K, D], value [S, K, D], scale) -> [T, H, D]; the last query stands at the last key
AttentionFunction = Callable[[Tensor, Tensor, Tensor, float], Tensor]


class Cache(Protocol):
    """What one layer remembers of a text."""

    num_tokens: int

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take the new tokens' key and value [T, K, D]; return those of all tokens so far, [S, K, D] each."""


class NoCache:
    """A layer that remembers nothing: what is new is all there is."""

    num_tokens = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The same two tensors."""
        return key, value


class _Layer:
    """Stands where the engine has a layer's paged cache: between its `write` and its `attend`."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.key = self.value = torch.empty(0)  # [S, K, D] once written


class PlainModel:
    """A model in float32 on the CPU.

    Args:
        attention: runs in every layer; may be replaced at any time.
        name: a model that ships, see minivllm.zoo.
    """

    def __init__(self, attention: AttentionFunction, name: str = "tutor") -> None:
        self.attention = attention
        self.config = ModelConfig.from_pretrained(zoo.path(name))
        backend = AttentionBackend("plain", self._attend, lambda metadata: None, _write)  # type: ignore[arg-type]
        self._model = load_model(self.config, torch.float32, "cpu", backend=backend)

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int], caches: Sequence[Cache] | None = None) -> Tensor:
        """Run the model on the next tokens of a text.

        Args:
            token_ids: T of them, at least one.
            caches: one for each layer; they know how many tokens came before. None: these tokens are the whole text.

        Returns:
            [T, V]: row t says which token may follow token t.
        """
        caches = caches or [NoCache()] * self.config.num_hidden_layers
        first = caches[0].num_tokens
        positions = torch.arange(first, first + len(token_ids))
        metadata = AttentionMetadata.from_lists([len(token_ids)], [len(token_ids)], [[0]], len(token_ids))
        layers = [_Layer(cache) for cache in caches]
        x = self._model.embed(torch.tensor(token_ids))
        hidden = self._model(x, positions, layers, metadata)
        return self._model.compute_logits(hidden)

    def _attend(
        self,
        query: Tensor,
        layer: _Layer,
        metadata: AttentionMetadata,
        *,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        assert window is None, "the models that ship see their whole context"
        return self.attention(query, layer.key, layer.value, scale)


def _write(key: Tensor, value: Tensor, layer: _Layer, slot_mapping: Tensor) -> None:
    layer.key, layer.value = layer.cache.append(key, value)
