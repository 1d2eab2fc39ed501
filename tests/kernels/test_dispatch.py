"""minivllm/ops.py: a kernel runs on a GPU and where it pays, the torch form everywhere else."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from minivllm import ops
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.kernels.awq_dequantize import awq_dequantize_torch
from minivllm.kernels.awq_gemm import awq_gemm_torch
from minivllm.kernels.weight_only_gemm import weight_only_gemm_torch

KERNELS = {  # module -> kernel wrappers in it, each with a torch form that takes its place here
    "awq_dequantize": {"awq_dequantize_triton": awq_dequantize_torch},
    "awq_gemm": {"awq_gemm_triton": awq_gemm_torch},
    "weight_only_gemm": {"weight_only_gemm_triton": weight_only_gemm_torch},
    "rms_norm": {"rms_norm_triton": ops.rms_norm, "add_rms_norm_triton": ops.add_rms_norm},
    "rotary": {"rotary_triton": ops.rotary},
    "silu_and_mul": {"silu_and_mul_triton": ops.silu_and_mul},
}


@pytest.fixture
def called(monkeypatch):
    """Names of the kernels that were asked for, in order. What they give comes from torch."""
    names = []

    def stand_in(name, form):
        def run(*arguments):
            names.append(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ops, "_small_kernels", lambda x: False)
                return form(*arguments)

        return run

    for module, wrappers in KERNELS.items():
        for name, form in wrappers.items():
            target = importlib.import_module(f"minivllm.kernels.{module}")
            monkeypatch.setattr(target, name, stand_in(name, form))
    return names


@pytest.fixture(params=[True, False], ids=["gpu", "cpu"])
def on_gpu(request, monkeypatch):
    monkeypatch.setattr(ops, "_small_kernels", lambda x: request.param)
    return request.param


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("num_tokens", "kernel"),
    [(1, "awq_gemm_triton"), (256, "awq_gemm_triton"), (257, "awq_dequantize_triton")],
)
def test_four_bit_weights_are_unpacked_once_when_many_tokens_read_them(called, on_gpu, num_tokens, kernel):
    words = torch.randint(
        -(2**31), 2**31, (34, 1), generator=torch.Generator().manual_seed(0), dtype=torch.int32
    )
    packed = words[:32], words[32:33], randn(1, 8)
    x = randn(num_tokens, 32)
    got = ops.awq_linear(x, *packed)
    torch.testing.assert_close(got, x @ awq_dequantize_torch(*packed))
    assert called == ([kernel] if on_gpu else [])


@pytest.mark.parametrize(("num_tokens", "is_fused"), [(1, True), (256, True), (257, False)])
def test_eight_bit_weights_are_widened_once_when_many_tokens_read_them(called, on_gpu, num_tokens, is_fused):
    weight, scale, x = (randn(5, 3) * 50).to(torch.int8), randn(5), randn(num_tokens, 3)
    got = ops.weight_only_linear(x, weight, scale)
    torch.testing.assert_close(got, x @ (weight * scale[:, None]).T)
    assert called == (["weight_only_gemm_triton"] if on_gpu and is_fused else [])


def test_small_operations(called, on_gpu):
    x, residual, weight = randn(2, 8), randn(2, 8) + 1, randn(8)
    ops.rms_norm(x, weight, 1e-6)
    normed, stream = ops.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(stream, x + residual) and normed.shape == x.shape
    ops.rotary(randn(2, 3, 8), randn(2, 1, 8), randn(2, 1, 8))
    ops.silu_and_mul(x)
    names = ["rms_norm_triton", "add_rms_norm_triton", "rotary_triton", "silu_and_mul_triton"]
    assert called == (names if on_gpu else [])


def test_a_kernel_needs_a_gpu_and_triton(monkeypatch):
    for is_cuda in (True, False):
        for has_triton in (True, False):
            monkeypatch.setattr(ops, "has_triton", lambda has_triton=has_triton: has_triton)
            assert ops._small_kernels(SimpleNamespace(is_cuda=is_cuda)) == (is_cuda and has_triton)


@pytest.mark.parametrize(
    ("starts", "kernel"),
    [
        ([0, 1, 2], "paged_attention"),
        ([0, 2, 2], "varlen_attention"),
    ],  # as many tokens as requests, but one has both
)
def test_attention_looks_at_who_owns_the_tokens_and_counts_a_program_for_each_kv_head(
    monkeypatch, starts, kernel
):
    called, asked = [], []
    for name in ("paged_attention", "varlen_attention"):
        module = importlib.import_module(f"minivllm.kernels.{name}")
        monkeypatch.setattr(module, f"{name}_triton", lambda *args, name=name, **options: called.append(name))
    split_kv = importlib.import_module("minivllm.kernels.paged_attention_split_kv")
    monkeypatch.setattr(split_kv, "choose_num_splits", lambda *args: asked.append(args) or 1)
    metadata = AttentionMetadata.from_lists([1, 1], [600, 700], [[1] * 50] * 2, 16)
    starts = torch.tensor(starts, dtype=torch.int32)
    metadata = replace(metadata, query_start_loc=starts, max_query_len=int(starts.diff().max()))
    cache = LayerKVCache(*torch.zeros(2, 3, 16, 2, 4))
    ops._triton_attention(torch.zeros(2, 4, 4), cache, metadata, scale=1.0)
    assert called == [kernel]
    assert asked == ([(2 * 2, 700, 1)] if kernel == "paged_attention" else [])
