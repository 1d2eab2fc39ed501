"""All layers in one C++ call: the same hidden states and the same cache as layer by layer, for every kind of model."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from minivllm import ops
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.config import ModelConfig
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend

pytestmark = pytest.mark.skipif(not ops.has_cpp(), reason="the C++ kernels cannot be built here")

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "intermediate_size": 40,
    "max_position_embeddings": 600,
    "eos_token_id": None,
}
FAMILIES = {
    "llama": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, {"sliding_window": 9}),
    "qwen2": (Qwen2Config, {"head_dim": 4}),
    "qwen3": (Qwen3Config, {"tie_word_embeddings": True}),
}
BLOCK_SIZE, NUM_BLOCKS = 8, 64


def load(folder, backend="cpp", dtype=torch.float32, load_format="dummy", pack=True):
    config = ModelConfig.from_pretrained(str(folder))
    options = {"backend": attention_backend(backend), "load_format": load_format, "seed": 3, "pack": pack}
    return load_model(config, dtype, "cpu", **options)


def write(folder, dtype):
    """A checkpoint with biases and norms that matter."""
    generator = torch.Generator().manual_seed(1)
    slots = load(folder, "torch").weight_slots()
    tensors = {name: 0.3 * torch.randn(slot.shape, generator=generator) for name, slot in slots.items()}
    tensors = {name: (t + name.endswith("norm.weight")).to(dtype) for name, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(params=list(FAMILIES))
def folder(request, tmp_path):
    kind, own = FAMILIES[request.param]
    config = kind(**SHAPE | own)
    config.architectures = [kind.__name__.replace("Config", "ForCausalLM")]
    config.save_pretrained(tmp_path)
    return tmp_path


def steps():
    """Prompts in pieces beside single tokens; then one token each."""
    tables = [list(range(1, 20)), list(range(20, 39)), list(range(39, 58))]
    for query_lens, seq_lens in (
        ([40, 70, 1], [40, 70, 1]),
        ([3, 1, 30], [43, 71, 31]),
        ([1, 1, 1], [44, 72, 32]),
    ):
        yield AttentionMetadata.from_lists(query_lens, seq_lens, tables, BLOCK_SIZE)


@torch.inference_mode()
def play(model):
    """Hidden states of each step, and the caches after them."""
    specs = model.kv_cache_specs()
    caches = [
        LayerKVCache(*torch.zeros(2, NUM_BLOCKS, BLOCK_SIZE, spec.num_kv_heads, spec.head_size))
        for spec in specs
    ]
    generator = torch.Generator().manual_seed(5)
    hidden = []
    for metadata in steps():
        lens, ends = metadata.query_start_loc.diff(), metadata.seq_lens
        positions = torch.cat([torch.arange(end - n, end) for n, end in zip(lens, ends, strict=True)])
        x = model.embed(torch.randint(97, (len(positions),), generator=generator))
        before = x.clone()
        hidden.append(model.forward(x, positions, caches, metadata))
        assert torch.equal(x, before)
    return hidden, caches


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_what_the_layers_compute(folder, dtype):
    write(folder, dtype)
    model, plain = load(folder, load_format="auto"), load(folder, "torch", load_format="auto")
    assert model.fused is not None and plain.fused is None
    (hidden, caches), (expected, expected_caches) = play(model), play(plain)
    for one, other in zip(hidden, expected, strict=True):
        torch.testing.assert_close(one, other, atol=3e-5, rtol=1e-4)
    for one, other in zip(caches, expected_caches, strict=True):
        torch.testing.assert_close(one.key, other.key, atol=3e-5, rtol=1e-4)
        torch.testing.assert_close(one.value, other.value, atol=3e-5, rtol=1e-4)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_tokens", [73, 129, 145, 300, 433])
def test_many_tokens_are_divided_among_threads(folder, threads, num_tokens):
    """The parts are as good as the whole, wherever the cuts are, and however many threads work on them."""
    write(folder, torch.float32)
    model, plain = load(folder, load_format="auto"), load(folder, "torch", load_format="auto")
    first, second = num_tokens // 3, num_tokens - num_tokens // 3
    tables = [list(range(1, 20)), list(range(20, 60))]
    metadata = AttentionMetadata.from_lists([first, second], [first, second], tables, BLOCK_SIZE)
    positions = torch.cat([torch.arange(first), torch.arange(second)])
    ids = torch.randint(97, (num_tokens,), generator=torch.Generator().manual_seed(7))

    @torch.inference_mode()
    def run(model, wanted=None):
        caches = [
            LayerKVCache(*torch.zeros(2, NUM_BLOCKS, BLOCK_SIZE, spec.num_kv_heads, spec.head_size))
            for spec in model.kv_cache_specs()
        ]
        return model.forward(model.embed(ids), positions, caches, metadata, wanted), caches

    expected, _ = run(plain)
    for count in (1, 2):
        threads(count)
        hidden, caches = run(model)
        torch.testing.assert_close(hidden, expected, atol=3e-5, rtol=1e-4)
        assert torch.equal(hidden, run(model)[0])
        for of_first, of_second in ((1, 1), (0, 3), (2, 0), (first, second), (0, 0)):
            wanted = torch.cat(
                [torch.arange(first - of_first, first), torch.arange(num_tokens - of_second, num_tokens)]
            )
            some, same_caches = run(model, wanted)
            torch.testing.assert_close(some, hidden[wanted], atol=1e-5, rtol=1e-5)
            for one, other in zip(same_caches, caches, strict=True):
                assert torch.equal(one.key, other.key) and torch.equal(one.value, other.value)
    assert torch.equal(run(plain, wanted)[0], expected[wanted])


def test_other_types_and_backends_go_layer_by_layer(folder):
    assert load(folder, dtype=torch.bfloat16).fused is None
    assert load(folder, "naive").fused is None
    assert load(folder, pack=False).fused is None
    model = load(folder)
    caches = [LayerKVCache(*torch.zeros(2, 1, 1, 1, 1))]
    with torch.inference_mode():
        assert model.fused.takes(torch.zeros(1, 24), caches)
        eight_bits = [LayerKVCache(*(cache.to(torch.float8_e4m3fn) for cache in caches[0]))]
        assert not model.fused.takes(torch.zeros(1, 24), eight_bits)
    assert not model.fused.takes(torch.zeros(1, 24), caches), "gradients are wanted"


def test_a_hook_is_called(folder):
    """Whoever watches a module sees it, on every path into it."""
    model = load(folder)
    expected, _ = play(model)
    for name in ("embed_tokens", "layers.1.mlp.down_proj", "lm_head"):
        seen = []
        module = model.get_submodule(name)
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            hook = register(lambda *_: seen.append(name))  # noqa: B023
            hidden, _ = play(model)
            with torch.inference_mode():
                model.compute_logits(hidden[-1])
            hook.remove()
            for one, other in zip(hidden, expected, strict=True):
                torch.testing.assert_close(one, other, atol=3e-5, rtol=1e-4)
        assert len(seen) == 2 * (1 if name == "lm_head" else 3)
    assert not model.fused.is_watched


def test_a_padded_batch_gets_no_context_from_anywhere(folder):
    model = load(folder)
    metadata = replace(
        AttentionMetadata.from_lists([1, 1], [1, 1], [[1], [2]], BLOCK_SIZE),
        query_start_loc=torch.tensor([0, 1, 1], dtype=torch.int32),  # the second token is nobody's
    )
    caches = [
        LayerKVCache(*torch.zeros(2, 4, BLOCK_SIZE, s.num_kv_heads, s.head_size))
        for s in model.kv_cache_specs()
    ]
    with torch.inference_mode():
        x = model.embed(torch.tensor([5, 5]))
        hidden = model.forward(x, torch.tensor([0, 0]), caches, metadata)
    assert hidden.isfinite().all()
