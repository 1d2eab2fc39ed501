"""When all layers of a decoder run in one call: which models can, and what of them is handed over.

This is an optimization for a CPU: in a small step calling an operation takes longer than the operation, and in a large
one each core keeps what lies between two operations in its cache. What is computed stands in `models/decoder.py`; every
unusual layer runs from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from minivllm import ops
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.layers.linear import Linear
from minivllm.layers.packed import PackedEmbedding, PackedLinear, PackedLMHead

if TYPE_CHECKING:
    from minivllm.models.decoder import DecoderLayer, DecoderModel


class FusedLayers:
    """The layers and the final norm of a model that `can_fuse`, and with fewer calls what stands before and behind."""

    def __init__(self, model: DecoderModel) -> None:
        assert model.norm is not None
        self._hooks = [hooks for module in model.modules() for hooks in _hooks(module)]
        embedding, head = cast(PackedEmbedding, model.embed_tokens), cast(PackedLMHead, model.lm_head)
        self._embedding, self._head, self._vocab_size = (
            embedding.weight.data,
            head.weight.data,
            head.vocab_size,
        )
        attention, config = _layers(model)[0].self_attn, model.config
        self._run = ops.fused_decoder(
            [_weights(layer) for layer in _layers(model)],
            model.norm.weight.data,
            model.rotary_emb.table,
            (attention.num_heads, attention.num_kv_heads, config.head_dim),
            eps=config.rms_norm_eps,
            scale=attention.attn.scale,
        )

    @property
    def is_watched(self) -> bool:
        """Has somebody hung a hook on a module? Here it would not be called."""
        return any(self._hooks)

    def takes(self, x: Tensor, kv_caches: Sequence[LayerKVCache]) -> bool:
        """Is this step one of those that it is for? x: [T, hidden]. One with a cache in another type is not."""
        return kv_caches[0].key.dtype == x.dtype and not self.is_watched and not torch.is_grad_enabled()

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        kv_caches: Sequence[LayerKVCache],
        metadata: AttentionMetadata,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """As `DecoderModel.forward`: [T, hidden] -> [T, hidden], or [n, hidden] of the tokens `wanted`."""
        return self._run(
            x,
            positions,
            kv_caches,
            metadata.slot_mapping,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_tables,
            wanted,
        )

    def embed(self, input_ids: Tensor) -> Tensor:
        """As `DecoderModel.embed`."""
        return ops.packed_rows(input_ids, self._embedding)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """As `DecoderModel.compute_logits`."""
        return ops.packed_linear(hidden, self._head, self._vocab_size)


def can_fuse(model: DecoderModel) -> bool:
    """A float32 model of ordinary layers with packed weights, as a model has that is whole on one CPU."""
    layers = _layers(model)
    linears = [module for layer in layers for module in layer.modules() if isinstance(module, Linear)]
    ordinary = all(type(linear.method) is PackedLinear for linear in linears)
    whole = isinstance(model.embed_tokens, PackedEmbedding) and isinstance(model.lm_head, PackedLMHead)
    if not (ordinary and whole and len(linears) == 4 * len(layers)):
        return False
    return all(hasattr(layer.mlp, "gate_up_proj") for layer in layers)


def _layers(model: DecoderModel) -> list[DecoderLayer]:
    return cast("list[DecoderLayer]", list(model.layers))


def _hooks(module: nn.Module) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    return module._forward_hooks, module._forward_pre_hooks


def _weights(layer: DecoderLayer) -> dict[str, Tensor | int | None]:
    attention, mlp = layer.self_attn, layer.mlp

    def weight(linear: Linear) -> Tensor:
        return cast(Tensor, linear.weight).data

    def bias(linear: Linear) -> Tensor | None:
        return None if linear.bias is None else linear.bias.data

    return {
        "input_norm": layer.input_layernorm.weight.data,
        "qkv": weight(attention.qkv_proj),
        "qkv_bias": bias(attention.qkv_proj),
        "qk_norm": None if attention.qk_norm is None else attention.qk_norm.weight.data,
        "o": weight(attention.o_proj),
        "o_bias": bias(attention.o_proj),
        "post_norm": layer.post_attention_layernorm.weight.data,
        "gate_up": weight(mlp.gate_up_proj),
        "gate_up_bias": bias(mlp.gate_up_proj),
        "down": weight(mlp.down_proj),
        "down_bias": bias(mlp.down_proj),
        "window": attention.attn.window,
    }
