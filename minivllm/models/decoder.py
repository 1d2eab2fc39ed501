"""The decoder that Llama, Mistral, Qwen2 and Qwen3 share: tokens in, hidden states out, logits on demand.

    x = embed(input_ids)            [T, hidden]
    for each layer:
        x += attention(norm(x))     the only place where tokens see one another, through the paged cache
        x += feed_forward(norm(x))
    hidden = norm(x)
    logits = output head times hidden, for the rows that need them

The batch is flat: all tokens of all requests in one dimension, prompts and single new tokens side by side.
Where the families differ, `ModelConfig` says so. Modules carry the checkpoint's names; q/k/v and gate/up are
packed, so that each pair of matrices costs one matmul.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from minivllm import ops
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.layers.activation import SiluAndMul
from minivllm.layers.attention import Attention, parse_kv_scale
from minivllm.layers.context import LayerContext
from minivllm.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from minivllm.layers.norm import QKNorm, RMSNorm
from minivllm.layers.packed import vocabulary_layers
from minivllm.layers.rotary import RotaryEmbedding
from minivllm.layers.weights import CheckpointTensor, WeightSlot
from minivllm.model_config import KVCacheSpec, ModelConfig
from minivllm.models.fused import FusedLayers, can_fuse
from minivllm.ops import AttentionBackend

Rotation = tuple[Tensor, Tensor]  # cos and sin at this step's positions, [T, 1, D] each
KVCaches = Sequence[LayerKVCache]


class SelfAttention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023): H query heads read K key/value heads."""

    def __init__(self, config: ModelConfig, layer: int, context: LayerContext, backend: AttentionBackend):
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.qkv_proj = QKVParallelLinear(
            hidden, head_dim, heads, kv_heads, bias=config.attention_bias, context=context
        )
        self.o_proj = RowParallelLinear(
            heads * head_dim, hidden, bias=config.attention_output_bias, context=context
        )
        self.num_heads, self.num_kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads  # this rank's
        self.qk_norm = None
        if config.qk_norm:
            self.qk_norm = QKNorm(self.num_heads, self.num_kv_heads, head_dim, config.rms_norm_eps, context)
        first = context.pp.layers(
            config.num_hidden_layers
        ).start  # caches are counted from this stage's first
        self.attn = Attention(
            backend, scale=head_dim**-0.5, window=config.layer_windows[layer], layer_index=layer - first
        )

    def forward(
        self, x: Tensor, rotation: Rotation, kv_caches: KVCaches, attn_metadata: AttentionMetadata
    ) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv_proj(x).unflatten(-1, (heads + 2 * kv_heads, -1))  # [T, H + 2 K, D]
        qk, v = qkv.split((heads + kv_heads, kv_heads), dim=1)
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        q, k = ops.rotary(qk, *rotation).split((heads, kv_heads), dim=1)  # positions turn q and k, never v
        return self.o_proj(self.attn(q, k, v, kv_caches, attn_metadata).flatten(1))


class GatedMLP(nn.Module):
    """The feed-forward block, gated (SwiGLU, Shazeer 2020)."""

    def __init__(self, config: ModelConfig, context: LayerContext):
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden, {"gate_proj": inner, "up_proj": inner}, bias=bias, context=context
        )
        self.act_fn = SiluAndMul()
        self.down_proj = RowParallelLinear(inner, hidden, bias=bias, context=context)

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        return self.down_proj(self.act_fn(self.gate_up_proj(x)))


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each reading a normalized copy of the residual stream and adding to it."""

    def __init__(self, config: ModelConfig, layer: int, context: LayerContext, backend: AttentionBackend):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, context)
        self.self_attn = SelfAttention(config, layer, context, backend)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, context)
        self.mlp = GatedMLP(config, context)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        rotation: Rotation,
        kv_caches: KVCaches,
        attn_metadata: AttentionMetadata,
    ) -> tuple[Tensor, Tensor]:
        """Take and return (output of the last branch, residual stream without it), [T, hidden] each.

        The sum of the two is formed by whoever reads it next: a norm, which adds and normalizes in one go.
        """
        x, residual = self.input_layernorm(x, residual)
        x = self.self_attn(x, rotation, kv_caches, attn_metadata)
        x, residual = self.post_attention_layernorm(x, residual)
        return self.mlp(x), residual


class DecoderModel(nn.Module):
    """A whole model, or one rank's share of it. `models.loader.load_model` builds and fills it.

    A pipeline stage has only its layers; the embedding is the first stage's, the final norm and the head the last's.
    """

    def __init__(self, config: ModelConfig, context: LayerContext, backend: AttentionBackend):
        super().__init__()
        self.config, self.tp, self.pp, self.backend = config, context.tp, context.pp, backend
        self.dtype = context.params_dtype
        is_tied = config.tie_word_embeddings
        new_embedding, new_head = vocabulary_layers(context)
        self.embed_tokens = None
        if self.pp.is_first or (self.pp.is_last and is_tied):
            self.embed_tokens = new_embedding(config.vocab_size, config.hidden_size, context)
        self.rotary_emb = RotaryEmbedding(
            config.head_dim, config.max_position_embeddings, config.rope_theta, config.rope_scaling, context
        )
        self.layer_range = self.pp.layers(config.num_hidden_layers)
        self.layers = nn.ModuleList(  # other stages' layers keep their numbers, and nothing else
            DecoderLayer(config, layer, context, backend) if layer in self.layer_range else nn.Identity()
            for layer in range(config.num_hidden_layers)
        )
        self.norm = self.lm_head = None
        if self.pp.is_last:
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, context)
            tied = self.embed_tokens if is_tied else None
            self.lm_head = new_head(config.vocab_size, config.hidden_size, context, tied)
        self.fused: FusedLayers | None = None  # the layers once more, as one call, where that is faster

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids [T] -> [T, hidden]. The first stage's."""
        if self.fused is not None and not self.fused.is_watched:
            return self.fused.embed(input_ids)
        assert self.embed_tokens is not None
        rows: Tensor = self.embed_tokens(input_ids)
        return rows

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        kv_caches: KVCaches,
        attn_metadata: AttentionMetadata,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Run this stage's layers on x [T, hidden] at positions [T] -> hidden states [T, hidden], or [n, hidden].

        What a stage before the last returns is the residual stream, the x of the next one. Writes the keys and
        values of these tokens into kv_caches, one per layer, at attn_metadata.slot_mapping. `wanted` [n] int64,
        ascending: the last stage returns only these tokens' states, which are the last ones of their requests.
        """
        if self.fused is not None and self.fused.takes(x, kv_caches):
            return self.fused(x, positions, kv_caches, attn_metadata, wanted)
        if attn_metadata.plan is None:
            attn_metadata = replace(attn_metadata, plan=self.backend.build_plan(attn_metadata))
        rotation = self.rotary_emb(positions)
        residual: Tensor | None = None
        for layer in self.layer_range:
            x, residual = self.layers[layer](x, residual, rotation, kv_caches, attn_metadata)
        if self.norm is None:
            assert residual is not None
            return x + residual
        hidden: Tensor = self.norm(x, residual)[0]
        return hidden if wanted is None else hidden[wanted]

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [n, hidden] of the rows that need them -> logits [n, V]. The last stage's."""
        if self.fused is not None and not self.fused.is_watched:
            return self.fused.compute_logits(hidden)
        assert self.lm_head is not None
        logits: Tensor = self.lm_head(hidden)
        return logits

    def kv_cache_specs(self) -> list[KVCacheSpec]:
        """What each layer keeps per token, on this rank."""
        dtype = str(self.dtype).removeprefix("torch.")
        specs = self.config.kv_cache_specs(dtype, self.tp.size)
        return specs[self.layer_range.start : self.layer_range.stop]

    def weight_slots(self) -> dict[str, WeightSlot]:
        """Every tensor that this rank needs of the checkpoint, by its name there."""
        slots: dict[str, WeightSlot] = {}
        for name, module in self.named_modules():
            if hasattr(module, "slots"):
                slots |= module.slots(name if name == "lm_head" else f"model.{name}")
        return slots

    def load_weights(self, weights: Iterable[tuple[str, CheckpointTensor]]) -> None:
        """Fill every parameter from (checkpoint name, tensor) pairs, in any order; only what is needed is read.

        Raises:
            ValueError: a tensor has no place here or another shape than expected, or one is missing.
        """
        slots = self.weight_slots()
        for name, tensor in weights:
            tied_head = name == "lm_head.weight" and self.config.tie_word_embeddings
            if tied_head or name.endswith("rotary_emb.inv_freq"):
                continue  # repetitions: some files carry the tied embedding twice, old ones the rotary angles
            if name not in slots and self._is_elsewhere(name):
                continue
            if found := parse_kv_scale(name):
                layer, kind = found
                if layer in self.layer_range:
                    attention = self.get_submodule(f"layers.{layer}.self_attn.attn")
                    assert isinstance(attention, Attention)
                    attention.load_kv_scale(kind, name, tensor)
                    continue
            if name not in slots:
                what = f"has no place in {self.config.architecture}, or comes twice"
                raise ValueError(f"checkpoint tensor {name} {what}.")
            shape, load = slots.pop(name)
            if tuple(tensor.shape) != shape:
                wrong = f"has shape {list(tensor.shape)}, config.json asks for {list(shape)}"
                raise ValueError(f"checkpoint tensor {name} {wrong}.")
            load(tensor)
        if slots:
            raise ValueError(f"the checkpoint lacks {len(slots)} tensors; the first is {next(iter(slots))}.")
        self.fused = FusedLayers(self) if type(self) is DecoderModel and can_fuse(self) else None

    def _is_elsewhere(self, name: str) -> bool:
        """Does a checkpoint tensor belong to another pipeline stage?"""
        if layer := re.match(r"model\.layers\.(\d+)\.", name):
            return int(layer[1]) < self.config.num_hidden_layers and int(layer[1]) not in self.layer_range
        place: dict[str, nn.Module | None] = {
            "model.embed_tokens.weight": self.embed_tokens,
            "model.norm.weight": self.norm,
            "lm_head.weight": self.lm_head,
        }
        return name in place and place[name] is None
