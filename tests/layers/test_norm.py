import pytest
import torch

from minivllm import ops
from minivllm.layers.context import LayerContext
from minivllm.layers.norm import QKNorm, RMSNorm

EPS = 1e-3


def reference(x, weight):
    x, weight = x.double(), weight.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_equals_its_definition(dtype):
    x, weight = (3 * torch.randn(5, 33)).to(dtype), torch.rand(33).to(dtype) + 0.5
    got = ops.rms_norm(x, weight, EPS)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), reference(x, weight), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_large_half_precision_values_do_not_overflow():
    x = torch.full((1, 8), 3000.0, dtype=torch.float16)  # its square is beyond float16
    assert torch.equal(ops.rms_norm(x, torch.ones(8, dtype=torch.float16), 1e-6), torch.ones_like(x))


def test_the_residual_form_adds_and_normalizes():
    norm = RMSNorm(16, EPS, LayerContext())
    norm.weight.data.uniform_(0.5, 2)
    x, residual = torch.randn(2, 3, 16)
    normed, stream = norm(x, residual)
    assert torch.equal(stream, x + residual)
    torch.testing.assert_close(normed.double(), reference(stream, norm.weight), rtol=1e-5, atol=1e-6)
    first, start = norm(x, None)
    assert start is x
    torch.testing.assert_close(first.double(), reference(x, norm.weight), rtol=1e-5, atol=1e-6)


def test_q_and_k_heads_get_their_own_weights():
    norm = QKNorm(3, 2, 4, EPS, LayerContext())
    q_weight, k_weight = torch.rand(2, 4)
    slots = norm.slots("layers.0.self_attn.qk_norm")
    assert set(slots) == {"layers.0.self_attn.q_norm.weight", "layers.0.self_attn.k_norm.weight"}
    slots["layers.0.self_attn.q_norm.weight"].load(q_weight)
    slots["layers.0.self_attn.k_norm.weight"].load(k_weight)
    x = torch.randn(6, 5, 4)
    expected = torch.cat((reference(x[:, :3], q_weight), reference(x[:, 3:], k_weight)), 1)
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=1e-6)
