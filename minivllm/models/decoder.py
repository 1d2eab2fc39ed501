"""The decoder that Llama, Mistral, Qwen2 and Qwen3 share: tokens in, hidden states out, logits on demand.

    x = embed(input_ids)                         [T, hidden]
    for each layer:
        x += attention(norm(x))                  the only place where tokens see one another, through the paged cache
        x += feed_forward(norm(x))
    hidden = norm(x)
    logits = hidden of the rows that need them, times the output head

The batch is flat: all tokens of all requests in one dimension, no padding, prompts and single new tokens side by side.
Where the families differ, `ModelConfig` says so. Modules carry the checkpoint's names; q/k/v and gate/up are packed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from minivllm import ops
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.layers.activation import SiluAndMul
from minivllm.layers.attention import Attention
from minivllm.layers.context import LayerContext
from minivllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from minivllm.layers.linear import (
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from minivllm.layers.norm import RMSNorm
from minivllm.layers.rotary import RotaryEmbedding
from minivllm.layers.weights import WeightSlot
from minivllm.model_config import KVCacheSpec, ModelConfig
from minivllm.ops import AttentionBackend

Rotation = tuple[Tensor, Tensor]  # cos and sin of this step's positions, [T, 1, D] each


class SelfAttention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023): H query heads read K key/value heads."""

    def __init__(
        self, config: ModelConfig, layer_index: int, context: LayerContext, backend: AttentionBackend
    ):
        super().__init__()
        hidden, self.head_dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.qkv_proj = QKVParallelLinear(
            hidden, self.head_dim, heads, kv_heads, bias=config.attention_bias, context=context
        )
        self.o_proj = RowParallelLinear(
            heads * self.head_dim, hidden, bias=config.attention_output_bias, context=context
        )
        self.qk_norm = config.qk_norm
        if config.qk_norm:  # over each head by itself
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps, context)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps, context)
        self.attn = Attention(
            backend,
            scale=self.head_dim**-0.5,
            window=config.layer_windows[layer_index],
            layer_index=layer_index,
        )

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        kv_caches: Sequence[LayerKVCache],
        attn_metadata: AttentionMetadata,
    ) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in self.qkv_proj(x).split(self.qkv_proj.sizes, -1)
        )
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = ops.rotary(q, *rotation), ops.rotary(k, *rotation)  # [T, H, D], [T, K, D]
        return self.o_proj(self.attn(q, k, v, kv_caches, attn_metadata).flatten(1))


class GatedMLP(nn.Module):
    """The feed-forward block, gated (SwiGLU, Shazeer 2020)."""

    def __init__(self, config: ModelConfig, context: LayerContext):
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        sizes = {"gate_proj": inner, "up_proj": inner}
        self.gate_up_proj = MergedColumnParallelLinear(hidden, sizes, bias=config.mlp_bias, context=context)
        self.act_fn = SiluAndMul()
        self.down_proj = RowParallelLinear(inner, hidden, bias=config.mlp_bias, context=context)

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        return self.down_proj(self.act_fn(self.gate_up_proj(x)))


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each reading a normalized copy of the residual stream and adding to it."""

    def __init__(
        self, config: ModelConfig, layer_index: int, context: LayerContext, backend: AttentionBackend
    ):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, context)
        self.self_attn = SelfAttention(config, layer_index, context, backend)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, context)
        self.mlp = GatedMLP(config, context)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        rotation: Rotation,
        kv_caches: Sequence[LayerKVCache],
        attn_metadata: AttentionMetadata,
    ) -> tuple[Tensor, Tensor]:
        """(last branch's output, stream) -> (this layer's output, stream); [T, hidden] each. The next norm adds them."""
        x, residual = self.input_layernorm.add(x, residual)
        x = self.self_attn(x, rotation, kv_caches, attn_metadata)
        x, residual = self.post_attention_layernorm.add(x, residual)
        return self.mlp(x), residual


class DecoderModel(nn.Module):
    """A whole model on one rank. Made empty by the constructor, filled by `load_weights`."""

    def __init__(self, config: ModelConfig, context: LayerContext, backend: AttentionBackend):
        super().__init__()
        self.config, self.tp, self.backend = config, context.tp, backend
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, context
        )
        self.rotary_emb = RotaryEmbedding(
            config.head_dim, config.max_position_embeddings, config.rope_theta, config.rope_scaling, context
        )
        layers = (DecoderLayer(config, i, context, backend) for i in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, context)
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size, context)
        if config.tie_word_embeddings:
            self.lm_head.tie(self.embed_tokens)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids [T] -> [T, hidden]."""
        return self.embed_tokens(input_ids)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        kv_caches: Sequence[LayerKVCache],
        attn_metadata: AttentionMetadata,
    ) -> Tensor:
        """Run all layers: x [T, hidden] at positions [T] -> hidden states [T, hidden]. Writes the caches in place."""
        if attn_metadata.plan is None:
            attn_metadata = replace(attn_metadata, plan=self.backend.build_plan(attn_metadata))
        rotation = self.rotary_emb(positions)
        residual = None
        for layer in self.layers:
            x, residual = layer(x, residual, rotation, kv_caches, attn_metadata)
        return self.norm.add(x, residual)[0]

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [n, hidden] of the rows that need them -> logits [n, V]."""
        return self.lm_head(hidden)

    def kv_cache_specs(self) -> list[KVCacheSpec]:
        """What each layer keeps per token, on this rank."""
        dtype = str(self.norm.weight.dtype).removeprefix("torch.")
        return self.config.kv_cache_specs(dtype, self.tp.size)

    def weight_slots(self) -> dict[str, WeightSlot]:
        """Every tensor the checkpoint must have, by its name there."""
        slots: dict[str, WeightSlot] = {}
        for name, module in self.named_modules():
            tied = module is self.lm_head and self.config.tie_word_embeddings
            if hasattr(module, "slots") and not tied:
                slots |= module.slots(name if module is self.lm_head else f"model.{name}")
        return slots

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Fill every parameter from (checkpoint name, whole tensor) pairs, in any order.

        Raises:
            ValueError: a tensor has no place here, has another shape, or one is missing.
        """
        slots = self.weight_slots()
        for name, tensor in weights:
            if name.endswith("rotary_emb.inv_freq") or (
                name == "lm_head.weight" and self.config.tie_word_embeddings
            ):
                continue  # old files carry the rotary table; some repeat the tied embedding
            if name not in slots:
                raise ValueError(
                    f"checkpoint tensor {name} has no place in {self.config.architecture}, or comes twice."
                )
            shape, load = slots.pop(name)
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"checkpoint tensor {name} has shape {list(tensor.shape)}, expected {list(shape)}."
                )
            load(tensor)
        if slots:
            raise ValueError(f"the checkpoint lacks {len(slots)} tensors, the first is {next(iter(slots))}.")
