"""Scales of an 8-bit KV cache: where a checkpoint's tensors go, and what the layer does with them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.attention.naive import dense_causal_attention
from minivllm.layers.attention import Attention, parse_kv_scale
from minivllm.model_config import ModelConfig
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend
from minivllm.quantization.registry import linear_method

E4M3 = torch.float8_e4m3fn


def make_layer(k_scale=1.0, v_scale=1.0):
    layer = Attention(attention_backend("torch"), scale=0.01, window=None, layer_index=0)
    layer.load_kv_scale("k", "k", torch.tensor(k_scale))
    layer.load_kv_scale("v", "v", torch.tensor([v_scale]))
    return layer


def run(layer, query, key, value, dtype):
    cache = LayerKVCache(*(torch.zeros(3, 8, 2, 4).to(dtype) for _ in range(2)))
    metadata = AttentionMetadata.from_lists([len(query)], [len(query)], [[2, 1]], 8)
    return layer(query, key, value, [cache], metadata)


@pytest.fixture
def qkv():
    """Keys and values far beyond 448."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(11, heads, 4, generator=generator) for heads in (4, 2, 2))
    return query, key * 1000, value * 5000


def test_scaled_keys_and_values_use_the_range_that_unscaled_ones_leave(qkv):
    query, key, value = qkv
    k_scale, v_scale = 7.3, 41.0
    kept_key, kept_value = (
        (key / k_scale).to(E4M3).float() * k_scale,
        (value / v_scale).to(E4M3).float() * v_scale,
    )
    expected = dense_causal_attention(query, kept_key, kept_value, scale=0.01)
    got = run(make_layer(k_scale, v_scale), *qkv, E4M3)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=0.1)
    exact = dense_causal_attention(*qkv, scale=0.01)
    unscaled = run(make_layer(), *qkv, E4M3)
    assert (got - exact).abs().mean() < 0.2 * (unscaled - exact).abs().mean()


def test_a_cache_in_the_models_type_needs_no_scales(qkv):
    assert torch.equal(
        run(make_layer(7.3, 41.0), *qkv, torch.float32), run(make_layer(), *qkv, torch.float32)
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.layers.3.self_attn.k_scale", (3, "k")),
        ("model.layers.12.self_attn.v_proj.v_scale", (12, "v")),
        ("model.layers.0.self_attn.attn.k_scale", (0, "k")),
        ("model.layers.0.self_attn.kv_scale", (0, "kv")),
        ("model.layers.0.self_attn.q_scale", None),
        ("model.layers.0.self_attn.k_proj.weight", None),
        ("model.layers.0.mlp.k_scale", None),
    ],
)
def test_the_names_that_quantizers_give(name, found):
    assert parse_kv_scale(name) == found


@pytest.fixture
def small(tmp_path):
    """(config, tensors) of a random Qwen3 of two layers."""
    raw = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 17,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 32,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {},
            "kv_cache_scheme": {},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = ModelConfig.from_pretrained(tmp_path)
    slots = load(config, load_format="dummy").weight_slots()
    return config, {name: torch.zeros(slot.shape) for name, slot in slots.items()}


def load(config, **options):
    return load_model(config, torch.float32, "cpu", backend=attention_backend("torch"), **options)


def test_a_checkpoint_brings_them(small, tmp_path):
    config, tensors = small
    prefix = "model.layers.1.self_attn."
    scales = {prefix + "k_scale": torch.tensor(0.5), prefix + "v_scale": torch.tensor([0.25])}
    save_file(tensors | scales, tmp_path / "model.safetensors")
    first, second = (layer.self_attn.attn for layer in load(config).layers)
    assert (first.k_scale, first.v_scale, second.k_scale, second.v_scale) == (1.0, 1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    "wrong", [torch.tensor(0.0), torch.tensor(-1.0), torch.tensor(float("nan")), torch.ones(2)], ids=str
)
def test_a_scale_that_is_none_is_a_sentence(small, tmp_path, wrong):
    config, tensors = small
    save_file(tensors | {"model.layers.0.self_attn.k_scale": wrong}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"layers\.0\.self_attn\.k_scale (must be one positive number|holds NaN)"
    ):
        load(config)


def test_a_checkpoint_with_scales_only_is_not_a_quantized_one():
    only_scales = {
        "quant_method": "compressed-tensors",
        "config_groups": {},
        "kv_cache_scheme": {"num_bits": 8},
    }
    assert linear_method(None, only_scales) is None
    assert linear_method("fp8", only_scales) is not None
    with pytest.raises(ValueError, match="quantized with 'compressed-tensors'"):
        linear_method(None, only_scales | {"config_groups": {"group_0": {}}})
