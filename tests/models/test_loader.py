"""Checkpoints that fit, that do not, and that are damaged; dummy weights; a model split over ranks."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.model_config import ModelConfig
from minivllm.models import loader
from minivllm.models.decoder import DecoderModel
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend
from minivllm.parallel.group import SINGLE, TensorParallel

CONFIG = ModelConfig(
    path=Path("unused"),
    architecture="Qwen3ForCausalLM",
    vocab_size=51,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=32,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    hidden_act="silu",
    rope_theta=1e4,
    rope_scaling=None,
    tie_word_embeddings=False,
    attention_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    qk_norm=True,
    sliding_window=None,
    layer_windows=(None, 4),
    dtype="float32",
    eos_token_ids=(),
    bos_token_id=None,
)


def load(config=CONFIG, **options) -> DecoderModel:
    return load_model(config, torch.float32, "cpu", backend=attention_backend("torch"), **options)


def logits(model: DecoderModel) -> Tensor:
    """Of five tokens of one request."""
    caches = [
        LayerKVCache(*torch.zeros(2, 3, 4, s.num_kv_heads, s.head_size)) for s in model.kv_cache_specs()
    ]
    metadata = AttentionMetadata.from_lists([5], [5], [[2, 1]], 4)
    with torch.inference_mode():
        hidden = model(model.embed(torch.tensor([50, 3, 1, 4, 3])), torch.arange(5), caches, metadata)
        return model.compute_logits(hidden)


@pytest.fixture
def checkpoint(tmp_path) -> dict[str, Tensor]:
    """Random tensors for CONFIG, saved to tmp_path/model.safetensors; returned for changes."""
    generator = torch.Generator().manual_seed(0)
    slots = load(load_format="dummy").weight_slots()
    tensors = {name: torch.randn(slot.shape, generator=generator) * 0.3 for name, slot in slots.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tensors


def test_every_parameter_comes_from_the_file(checkpoint, tmp_path):
    model = load(replace(CONFIG, path=tmp_path))
    assert sum(p.numel() for p in model.parameters()) == sum(
        tensor.numel() * (4 if "q_norm" in name else 2 if "k_norm" in name else 1)  # one row per head
        for name, tensor in checkpoint.items()
    )
    attention = model.layers[1].self_attn
    names = [f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"]
    assert torch.equal(attention.qkv_proj.weight, torch.cat([checkpoint[name] for name in names]))
    assert not any(p.requires_grad for p in model.parameters())


def test_shards_named_by_an_index_give_the_same_model(checkpoint, tmp_path):
    expected = logits(load(replace(CONFIG, path=tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    names = list(checkpoint)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: checkpoint[name] for name in part}, tmp_path / file)
    save_file({"other": torch.ones(1)}, tmp_path / "not-in-the-index.safetensors")
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(load(replace(CONFIG, path=tmp_path))), expected)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model-00002-of-00002\.safetensors, which its index names"):
        load(replace(CONFIG, path=tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match="is no index of safetensors files"):
        load(replace(CONFIG, path=tmp_path))


def test_without_an_index_all_files_are_read_but_consolidated_ones(checkpoint, tmp_path):
    (tmp_path / "model.safetensors").rename(tmp_path / "part.safetensors")
    save_file({"layers.0.wq": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    load(replace(CONFIG, path=tmp_path))


def test_repetitions_in_the_file_are_skipped(checkpoint, tmp_path):
    checkpoint["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(checkpoint, tmp_path / "model.safetensors")
    model = load(replace(CONFIG, path=tmp_path, tie_word_embeddings=True))
    assert model.lm_head.weight is model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, checkpoint["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks 1 tensors; the first is model.norm.weight"),
        (
            lambda t: t.pop("model.layers.1.self_attn.k_proj.bias"),
            "first is model.layers.1.self_attn.k_proj.bias",
        ),
        (lambda t: t.pop("lm_head.weight"), "the first is lm_head.weight"),
        (lambda t: t.update(extra=torch.ones(1)), "tensor extra has no place in Qwen3ForCausalLM"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.ones(24, 32)}),
            r"up_proj.weight has shape \[24, 32\], config.json asks for \[32, 24\]",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint, tmp_path, change, sentence):
    change(checkpoint)
    save_file(checkpoint, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=sentence):
        load(replace(CONFIG, path=tmp_path))


@pytest.mark.parametrize("size", [0, 5, 300, -50])
def test_a_damaged_file_is_named(checkpoint, tmp_path, size):
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a complete safetensors file"):
        load(replace(CONFIG, path=tmp_path))


def test_other_formats_are_not_read(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"lacks any \*\.safetensors file; other weight formats are not read"
    ):
        load(replace(CONFIG, path=tmp_path))


def test_options_out_of_range():
    with pytest.raises(ValueError, match="load_format must be one of auto, safetensors, dummy, got 'pt'"):
        load(load_format="pt")
    quantized = replace(CONFIG, raw={"quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(ValueError, match="quantized with 'gptq'; of quantized ones only AWQ's"):
        load(quantized)
    with pytest.raises(ValueError, match="must be one of auto, torch"):
        attention_backend("flash")


def test_dummy_weights_follow_the_seed():
    same, again, other = (load(load_format="dummy", seed=seed) for seed in (1, 1, 2))
    for a, b in zip(same.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(same.lm_head.weight, other.lm_head.weight)
    assert (same.norm.weight == 1).all()


def test_parameters_have_the_dtype_asked_for(checkpoint, tmp_path):
    config = replace(CONFIG, path=tmp_path)
    model = load_model(config, torch.bfloat16, "cpu", backend=attention_backend("torch"))
    assert {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]} == {torch.bfloat16}
    assert {spec.dtype for spec in model.kv_cache_specs()} == {"bfloat16"}
    assert [spec.window for spec in model.kv_cache_specs()] == [None, 4]


class Ranks:
    """Collectives for ranks that are threads: each leaves its tensor, all wait, each combines them."""

    def __init__(self, size: int) -> None:
        self.size, self.tensors, self.barrier = (
            size,
            [torch.empty(0)] * size,
            threading.Barrier(size, timeout=60),
        )

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self.barrier.wait()
        self.tensors[rank] = tensor
        self.barrier.wait()
        return list(self.tensors)

    def member(self, rank: int) -> TensorParallel:
        return TensorParallel(
            rank,
            self.size,
            all_reduce=lambda t: torch.stack(self.exchange(rank, t)).sum(0),
            all_gather=lambda t: torch.cat(self.exchange(rank, t), -1),
        )


@pytest.mark.parametrize("size", [1, 2, 4])  # 4 ranks share 2 kv heads, and 51 tokens do not divide by either
@pytest.mark.parametrize("tied", [False, True])
def test_split_over_ranks_it_is_the_same_model(checkpoint, tmp_path, size, tied):
    config = replace(CONFIG, path=tmp_path, tie_word_embeddings=tied)
    expected = logits(load(config, tp=SINGLE))
    ranks, results = Ranks(size), {}

    def run(rank: int) -> None:
        results[rank] = logits(load(config, tp=ranks.member(rank)))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert expected.shape == (5, 51)
    for rank in range(size):
        torch.testing.assert_close(results[rank], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at", range(15))
def test_a_number_that_is_none_is_found_wherever_it_stands(monkeypatch, at):
    monkeypatch.setattr(loader, "CHECKED_AT_ONCE", 4)
    matrix = torch.full((5, 3), 3e38)  # finite, and its sum is not
    assert loader._is_finite(matrix) and loader._is_finite(matrix[:0]) and loader._is_finite(matrix[0, 0])
    matrix.view(-1)[at] = torch.nan
    assert not loader._is_finite(matrix) and not loader._is_finite(matrix.T)


def test_looking_for_such_numbers_needs_no_copy_of_a_large_matrix():
    matrix = torch.zeros(4096, 1024, dtype=torch.bfloat16)
    with torch.profiler.profile(profile_memory=True) as profiler:
        assert loader._is_finite(matrix)
    allocated = [event.cpu_memory_usage for event in profiler.events()]
    assert 0 < max(allocated) <= 4 * loader.CHECKED_AT_ONCE < 2 * matrix.numel()
