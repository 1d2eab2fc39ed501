"""Packed matrices: the same layers as with plain weights, whatever their sizes, and nothing rounded."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import Qwen3Config

from minivllm import ops
from minivllm.config import ModelConfig
from minivllm.layers.context import LayerContext
from minivllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from minivllm.layers.linear import MergedColumnParallelLinear
from minivllm.layers.packed import (
    PackedEmbedding,
    PackedLinear,
    PackedLMHead,
    num_weights,
    packed_parameter,
    vocabulary_layers,
)
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend
from minivllm.parallel.group import TensorParallel

pytestmark = pytest.mark.skipif(not ops.has_cpp(), reason="the C++ kernels cannot be built here")

TYPES = st.sampled_from([torch.float32, torch.bfloat16])


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def packed(dtype):
    return LayerContext(method=PackedLinear(dtype))


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.sampled_from([1, 2, 3, 4, 7, 8, 9, 63, 64, 65, 130]) | st.integers(1, 80),
    in_size=st.sampled_from([1, 4, 127, 128, 129, 256]) | st.integers(1, 300),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    bias=st.booleans(),
    dtype=TYPES,
    seed=st.integers(0, 2**16),
)
@example(tokens=9, in_size=129, sizes=[64, 32], bias=False, dtype=torch.bfloat16, seed=0)
def test_linear_layers(tokens, in_size, sizes, bias, dtype, seed):
    layer = MergedColumnParallelLinear(
        in_size, {str(i): size for i, size in enumerate(sizes)}, bias=bias, context=packed(dtype)
    )
    weights = [randn(size, in_size, dtype=dtype, seed=seed + i) for i, size in enumerate(sizes)]
    biases = [randn(size, seed=seed + 9 + i) for i, size in enumerate(sizes)]
    for name, slot in layer.slots("a.merged").items():
        _, which, kind = name.split(".")
        assert slot.shape == ((sizes[int(which)], in_size) if kind == "weight" else (sizes[int(which)],))
        slot.load((weights if kind == "weight" else biases)[int(which)])
    x = randn(tokens, in_size, seed=seed + 99)
    expected = x.double() @ torch.cat(weights).double().T
    if bias:
        expected += torch.cat(biases).double()
    torch.testing.assert_close(layer(x), expected.float(), atol=2e-5, rtol=2e-5)


def test_threads_and_the_distance_of_rows_change_nothing():
    layer = MergedColumnParallelLinear(512, {"": 1040}, bias=False, context=packed(torch.bfloat16))
    layer.slots("a.b")["a.b.weight"].load(randn(1040, 512))
    wide = randn(70, 1024)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results += [layer(wide[:, :512]), layer(wide[:, :512].contiguous())]
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@settings(max_examples=30, deadline=None)
@given(vocab=st.integers(1, 100), hidden=st.integers(1, 40), dtype=TYPES, tied=st.booleans())
def test_embedding_and_head(vocab, hidden, dtype, tied):
    context = packed(dtype)
    embedding = PackedEmbedding(vocab, hidden, context)
    head = PackedLMHead(vocab, hidden, context, embedding if tied else None)
    assert isinstance(embedding, PackedEmbedding) and head.is_tied == tied
    weight, other = randn(vocab, hidden, dtype=dtype), randn(vocab, hidden, dtype=dtype, seed=1)
    embedding.slots("embed")["embed.weight"].load(weight)
    slots = head.slots("lm_head")
    assert set(slots) == (set() if tied else {"lm_head.weight"})
    for slot in slots.values():
        assert slot.shape == (vocab, hidden)
        slot.load(other)
    ids = torch.randint(vocab, (7,))
    assert torch.equal(embedding(ids), weight[ids].float())
    logits = embedding(ids).double() @ (weight if tied else other).double().T
    torch.testing.assert_close(head(embedding(ids)), logits.float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("out_features", [1, 15, 16, 17, 100])
def test_memory_is_not_touched_before_it_is_filled_but_for_the_padding(out_features):
    torch.use_deterministic_algorithms(True)  # then torch marks new memory with NaN
    try:
        parameter = packed_parameter(out_features, 3, torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)
    outputs = parameter.transpose(1, 2).flatten(0, 1)  # [out with padding, in]
    assert outputs[:out_features].isnan().all() and (outputs[out_features:] == 0).all()
    assert num_weights(parameter) == 3 * out_features


def test_the_vocabulary_is_packed_as_the_linear_layers_are():
    assert vocabulary_layers(packed(torch.float32)) == (PackedEmbedding, PackedLMHead)
    assert vocabulary_layers(LayerContext()) == (VocabParallelEmbedding, ParallelLMHead)


@pytest.fixture
def folder(tmp_path):
    shape = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "head_dim": 10,
        "vocab_size": 97,
    }
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = Qwen3Config(**shape | heads, tie_word_embeddings=True)
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(tmp_path)
    return tmp_path


def load(folder, backend="cpp", dtype=torch.float32, **options):
    config = ModelConfig.from_pretrained(str(folder))
    return load_model(config, dtype, "cpu", backend=attention_backend(backend), **options)


def write(folder, **types):
    """A checkpoint in bfloat16, but for the tensors whose names contain a key of `types`."""
    tensors = {}
    for i, (name, slot) in enumerate(load(folder, "torch", load_format="dummy").weight_slots().items()):
        dtype = next((dtype for part, dtype in types.items() if part in name), torch.bfloat16)
        tensors[name] = randn(*slot.shape, dtype=dtype, seed=i)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def stored_types(model):
    return {p.dtype for name, p in model.named_parameters() if p.dim() == 3}


def test_a_bfloat16_checkpoint_stays_so_and_any_other_is_not_rounded(folder):
    write(folder)
    assert stored_types(load(folder, pack=True)) == {torch.bfloat16}
    tensors = write(folder, norm=torch.float32)
    model = load(folder, pack=True)
    assert stored_types(model) == {torch.float32}
    ids = torch.tensor([5, 96])
    assert torch.equal(model.embed(ids), tensors["model.embed_tokens.weight"][ids].float())


def test_only_who_computes_with_the_kernel_gets_packed_weights(folder):
    write(folder)
    for options in ({}, {"backend": "torch", "pack": True}, {"dtype": torch.bfloat16, "pack": True}):
        assert not stored_types(load(folder, **options))
    assert not stored_types(load(folder, pack=True, quantization="int8_per_channel_weight_only"))
    assert not stored_types(load(folder, pack=True, tp=TensorParallel(0, 2)))


def test_padding_is_not_counted_among_the_weights(folder):
    write(folder)
    counts = [sum(map(num_weights, load(folder, pack=pack).parameters())) for pack in (True, False)]
    assert counts[0] == counts[1]


def test_nothing_is_held_twice(folder):
    write(folder)
    model = load(folder, pack=True)
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert model.fused is not None
    assert {tensor.data_ptr() for tensor in model.fused._run._kept} <= own
    assert model.lm_head.weight is model.embed_tokens.weight
