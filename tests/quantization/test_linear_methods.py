"""The linear methods: put together, the ranks' shares compute what the dequantized matrix computes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.config import QUANTIZATIONS, EngineConfig
from minivllm.layers.context import LayerContext
from minivllm.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from minivllm.parallel.group import TensorParallel
from minivllm.quantization.awq_linear import AWQLinear
from minivllm.quantization.packing import dequantize, pack_checkpoint, quantize_groups
from minivllm.quantization.registry import ONLINE, linear_method
from minivllm.quantization.weight_only import WeightOnlyLinear, quantize_per_channel

METHODS = {
    "awq": AWQLinear(32),
    "int8": WeightOnlyLinear(torch.int8),
    "fp8": WeightOnlyLinear(torch.float8_e4m3fn),
}


def contexts(method, size):
    return [LayerContext(method=METHODS[method], tp=TensorParallel(rank, size)) for rank in range(size)]


def stored(method, weight):
    """(tensors of the checkpoint, the weight that they stand for)."""
    if method == "awq":
        quantized = quantize_groups(weight, 32)
        return pack_checkpoint(quantized), dequantize(quantized)
    q, scale = quantize_per_channel(weight, METHODS[method].stored_dtype)
    return {"weight": weight}, q.float() * scale[:, None]


def fill(layer, name, weights, method):
    """Load the matrices (name -> weight) into the layer; every slot has to be filled."""
    tensors = {}
    for key, weight in weights.items():
        tensors |= {f"{key}.{n}": tensor for n, tensor in stored(method, weight)[0].items()}
    slots = layer.slots(name)
    assert {key: slot.shape for key, slot in slots.items()} == {k: tuple(t.shape) for k, t in tensors.items()}
    for key, slot in slots.items():
        slot.load(tensors[key])
    return layer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2])
def test_outputs_divided_over_ranks(method, size):
    torch.manual_seed(size)
    gate, up, x = torch.randn(32, 64), torch.randn(32, 64), torch.randn(3, 64)
    gates, ups = [], []
    for context in contexts(method, size):
        layer = MergedColumnParallelLinear(64, {"gate_proj": 32, "up_proj": 32}, bias=False, context=context)
        fill(layer, "m.gate_up_proj", {"m.gate_proj": gate, "m.up_proj": up}, method)
        g, u = layer(x).chunk(2, -1)
        gates.append(g)
        ups.append(u)
    for parts, weight in ((gates, gate), (ups, up)):
        torch.testing.assert_close(
            torch.cat(parts, -1), F.linear(x, stored(method, weight)[1]), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2])
def test_inputs_divided_over_ranks(method, size):
    """Scales of 8-bit rows are those of the whole row, so the number of ranks does not change the weights."""
    torch.manual_seed(size)
    weight, x = torch.randn(16, 64), torch.randn(3, 64)
    weight[:, 0] *= 5  # the largest inputs lie with one rank
    layers = [RowParallelLinear(64, 16, bias=False, context=context) for context in contexts(method, size)]
    parts = [
        fill(layer, "m.o", {"m.o": weight}, method)(piece)
        for layer, piece in zip(layers, x.chunk(size, -1), strict=True)
    ]
    expected = F.linear(x, stored(method, weight)[1])
    torch.testing.assert_close(torch.stack(parts).sum(0), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_q_k_and_v_with_their_biases(method):
    torch.manual_seed(0)
    weights = {
        "a.q_proj": torch.randn(32, 64),
        "a.k_proj": torch.randn(16, 64),
        "a.v_proj": torch.randn(16, 64),
    }
    biases = {name: torch.randn(len(weight)) for name, weight in weights.items()}
    layer = QKVParallelLinear(64, 8, 4, 2, bias=True, context=contexts(method, 1)[0])
    for name, slot in layer.slots("a.qkv_proj").items():
        parent, key = name.rsplit(".", 1)
        slot.load(biases[parent] if key == "bias" else stored(method, weights[parent])[0][key])
    x = torch.randn(3, 64)
    expected = torch.cat([F.linear(x, stored(method, weights[n])[1], biases[n]) for n in weights], -1)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=30)
@given(
    st.sampled_from([torch.int8, torch.float8_e4m3fn]),
    st.sampled_from([1e-4, 0.1, 50.0]),
    st.integers(0, 2**16),
)
def test_eight_bit_weights_are_the_nearest_there_are(dtype, size, seed):
    """Against every number of the type, for every weight."""
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed)) * size
    weight[1] = 0
    q, scale = quantize_per_channel(weight, dtype)
    numbers = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    numbers = numbers[numbers.isfinite() & (numbers >= -127 if dtype == torch.int8 else numbers.isfinite())]
    grid = scale.double()[:, None] * numbers  # [out, numbers]
    nearest = (grid[:, None] - weight.double()[:, :, None]).abs().amin(-1)
    error = (q.double() * scale.double()[:, None] - weight.double()).abs()
    assert (error <= nearest + 1e-6 * weight.abs().max()).all()
    assert (q[1].float() == 0).all() and scale[1] == 1
    largest = (q.double() * scale.double()[:, None]).abs().amax(1)
    torch.testing.assert_close(
        largest, weight.double().abs().amax(1), rtol=1e-6, atol=0
    )  # nothing is cut off
    assert torch.allclose(q.float().abs().amax(1)[[0, 2]], numbers.max().float())


def test_a_rank_may_not_cut_through_a_group_or_a_word():
    with pytest.raises(ValueError, match="48 inputs and 16 outputs does not divide into groups of 32"):
        RowParallelLinear(96, 16, bias=False, context=contexts("awq", 2)[0])
    with pytest.raises(ValueError, match="64 inputs and 12 outputs does not divide"):
        MergedColumnParallelLinear(64, {"": 24}, bias=False, context=contexts("awq", 2)[0])


GOOD = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}


def test_the_checkpoint_decides_where_the_user_says_nothing():
    assert linear_method(None, None) is None
    assert linear_method(None, GOOD) == linear_method("awq", GOOD) == AWQLinear(64)
    old = {
        "quant_method": "awq",
        "w_bit": 4,
        "q_group_size": 128,
        "version": "GEMM",
        "modules_to_not_convert": ["lm_head"],
    }
    assert linear_method(None, old) == AWQLinear(128)
    for name, dtype in ONLINE.items():
        assert linear_method(name, None) == WeightOnlyLinear(dtype)
    assert set(QUANTIZATIONS) == {"awq", *ONLINE}


@pytest.mark.parametrize(
    ("name", "checkpoint", "sentence"),
    [
        ("awq", None, "make one with python -m minivllm.quantization.awq"),
        ("fp8", GOOD, "'fp8' was asked for, and the checkpoint is already quantized with 'awq'"),
        (None, GOOD | {"quant_method": "gptq"}, "quantized with 'gptq'; of quantized ones only AWQ's"),
        (None, GOOD | {"bits": 8}, "bits must be 4 for AWQ, got 8"),
        (None, GOOD | {"group_size": -1}, "group_size must be 32 or 64 or 128 for AWQ, got -1"),
        (None, GOOD | {"version": "gemv"}, "version must be 'gemm' for AWQ, got 'gemv'"),
        (None, GOOD | {"zero_point": False}, "zero_point must be True for AWQ, got False"),
        (None, GOOD | {"modules_to_not_convert": ["visual"]}, "names 'visual'; only lm_head"),
    ],
)
def test_what_cannot_be_served_gets_a_sentence(name, checkpoint, sentence):
    with pytest.raises(ValueError, match=sentence):
        linear_method(name, checkpoint)


def test_an_unknown_name_is_refused_with_the_list():
    with pytest.raises(
        ValueError, match="quantization must be one of awq, int8_per_channel_weight_only, fp8"
    ):
        EngineConfig(quantization="int3")
