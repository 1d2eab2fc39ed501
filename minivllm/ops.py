"""The one place that decides which implementation runs. Everything above it asks here and knows no kernel's
name.

It computes nothing that has a better home: attention lives in minivllm.attention, kernels in minivllm.kernels. Here
are the choice, and the plain torch form of the small operations. The kernels are imported where they are chosen, so
that whoever runs on torch alone never waits for Triton.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from minivllm.attention import naive, paged
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache

if TYPE_CHECKING:
    from minivllm.kernels.cpu_decoder import CpuDecoder

ATTENTION_BACKENDS = ("auto", "torch", "naive", "triton", "cpp")


class Attend(Protocol):
    """The signature of attention."""

    def __call__(
        self,
        query: Tensor,
        kv_cache: LayerKVCache,
        metadata: AttentionMetadata,
        *,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """Attend: a flat batch [T, H, D] over one layer's paged cache -> [T, H, D]."""


@dataclass(frozen=True)
class AttentionBackend:
    """The operations on a paged KV cache that belong together."""

    name: str
    attend: Attend
    build_plan: Callable[[AttentionMetadata], object | None]  # once per step; goes into metadata.plan
    write: Callable[[Tensor, Tensor, LayerKVCache, Tensor], None] = paged.reshape_and_cache
    copy_blocks: Callable[[Sequence[LayerKVCache], Tensor], None] = paged.copy_blocks


def _no_plan(metadata: AttentionMetadata) -> None:
    return None


def with_paged_attention(backend: AttentionBackend, function: Callable[..., Tensor]) -> AttentionBackend:
    """`backend`, with somebody's own `paged_attention` (see minivllm/attention/blockwise.py) in the place of its own.

    It knows neither windows nor caches in another type than the query's: those layers stay with `backend`.
    """

    def attend(
        query: Tensor,
        kv_cache: LayerKVCache,
        metadata: AttentionMetadata,
        *,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        if window is not None or kv_cache.key.dtype != query.dtype:
            return backend.attend(query, kv_cache, metadata, scale=scale, window=window)
        batch = metadata.block_tables, metadata.seq_lens, metadata.query_start_loc
        return function(query, kv_cache.key, kv_cache.value, *batch, scale)

    return replace(backend, name="paged_attention part", attend=attend)


def attention_backend(name: str = "auto", device: torch.device | str = "cpu") -> AttentionBackend:
    """Choose by name: "torch", "triton", "cpp" (C++, for the CPU), or "naive" for the slow oracle.

    "auto" is triton on a GPU, cpp on a CPU, and torch where these cannot be had.

    Raises:
        ValueError: no backend of that name, or it cannot run on this device.
    """
    if name == "auto":
        name = _fastest_backend(torch.device(device).type)
    if name == "torch":
        return AttentionBackend("torch", paged.paged_attention, paged.build_plan)
    if name == "naive":
        return AttentionBackend("naive", naive.naive_attention, _no_plan)
    if name == "triton":
        from minivllm.kernels._triton import check_can_run

        try:
            check_can_run(torch.device(device).type)
        except RuntimeError as error:
            raise ValueError(f"attention_backend 'triton': {error}; 'auto' finds what runs here.") from error
        return AttentionBackend("triton", _triton_attention, _no_plan, _triton_write, _triton_copy_blocks)
    if name == "cpp":
        if torch.device(device).type != "cpu" or not has_cpp():
            raise ValueError(
                f"attention_backend 'cpp' needs device cpu and a C++ compiler, and device is {str(device)!r}; "
                "'auto' finds what runs here."
            )
        return AttentionBackend("cpp", _cpp_attention, _no_plan, _cpp_write)
    raise ValueError(f"attention_backend must be one of {', '.join(ATTENTION_BACKENDS)}, got {name!r}.")


def _fastest_backend(device_type: str) -> str:
    if device_type == "cuda":
        return "triton" if has_triton() else "torch"
    return "cpp" if device_type == "cpu" and has_cpp() else "torch"


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


@cache
def has_cpp() -> bool:
    """Whether there are C++ kernels for the CPU. The first call on a machine builds them, in a few seconds."""
    from minivllm.kernels._cpp import library

    return library() is not None


def _cpp_write(key: Tensor, value: Tensor, kv_cache: LayerKVCache, slot_mapping: Tensor) -> None:
    from minivllm.kernels.cpu_ops import reshape_and_cache_cpp

    if kv_cache.key.dtype == key.dtype:
        reshape_and_cache_cpp(key, value, kv_cache.key, kv_cache.value, slot_mapping)
    else:  # rounding is torch's
        paged.reshape_and_cache(key, value, kv_cache, slot_mapping)


def _cpp_attention(
    query: Tensor,
    kv_cache: LayerKVCache,
    metadata: AttentionMetadata,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """One kernel for every batch. Types that it does not know go to torch."""
    from minivllm.kernels.cpu_ops import DTYPES, paged_attention_cpp

    if query.dtype not in DTYPES or kv_cache.key.dtype != query.dtype:
        return paged.paged_attention(query, kv_cache, metadata, scale=scale, window=window)
    starts, seq_lens, tables = metadata.query_start_loc, metadata.seq_lens, metadata.block_tables
    return paged_attention_cpp(query, *kv_cache, starts, seq_lens, tables, scale=scale, window=window)


def _triton_write(key: Tensor, value: Tensor, kv_cache: LayerKVCache, slot_mapping: Tensor) -> None:
    from minivllm.kernels.reshape_and_cache import reshape_and_cache_triton

    reshape_and_cache_triton(key, value, kv_cache.key, kv_cache.value, slot_mapping)


def _triton_copy_blocks(kv_caches: Sequence[LayerKVCache], pairs: Tensor) -> None:
    """Where a block was freed and taken again within a step, it is source and destination at once: there the order
    matters, and torch reads all sources first."""
    from minivllm.kernels.copy_blocks import copy_blocks_triton

    sources, destinations = pairs.T.contiguous()
    if torch.isin(destinations, sources).any():
        paged.copy_blocks(kv_caches, pairs)
        return
    for layer in kv_caches:
        for tensor in layer:
            copy_blocks_triton(tensor, sources, destinations)


def _triton_attention(
    query: Tensor,
    kv_cache: LayerKVCache,
    metadata: AttentionMetadata,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Three kernels: mixed batches; one new token each; and the same with long contexts cut into pieces."""
    from minivllm.kernels.paged_attention import paged_attention_triton
    from minivllm.kernels.paged_attention_split_kv import (
        choose_num_splits,
        paged_attention_split_kv_triton,
    )
    from minivllm.kernels.varlen_attention import varlen_attention_triton

    caches, tables, seq_lens = (kv_cache.key, kv_cache.value), metadata.block_tables, metadata.seq_lens
    num_requests = len(seq_lens)
    if metadata.max_query_len > 1 or len(query) != num_requests:
        starts = metadata.query_start_loc
        return varlen_attention_triton(query, *caches, starts, seq_lens, tables, scale=scale, window=window)
    num_programs = num_requests * kv_cache.key.shape[2]
    num_splits = choose_num_splits(num_programs, metadata.max_seq_len, _num_processors(query.device))
    if num_splits == 1:
        return paged_attention_triton(query, *caches, tables, seq_lens, scale=scale, window=window)
    return paged_attention_split_kv_triton(
        query, *caches, tables, seq_lens, num_splits=num_splits, scale=scale, window=window
    )


@cache
def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1  # interpreted: one program after the other
    return torch.cuda.get_device_properties(device).multi_processor_count


def _small_kernels(x: Tensor) -> bool:
    """Norms, rotations and activations run as Triton kernels on a GPU only: interpreted they would gain nothing."""
    return x.is_cuda and has_triton()


def _cpp_kernels(x: Tensor) -> bool:
    """The same in C++ on a CPU, for float32 and where nobody wants gradients."""
    return x.is_cpu and x.dtype is torch.float32 and not torch.is_grad_enabled() and has_cpp()


MAX_FUSED_TOKENS = 256  # with more, W is used so often that unpacking it once is better


def awq_linear(x: Tensor, qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
    """x [T, in] times 4-bit weights -> [T, out]. How they are packed: kernels/awq_dequantize.py."""
    from minivllm.kernels.awq_dequantize import awq_dequantize_triton
    from minivllm.kernels.awq_gemm import awq_gemm_torch, awq_gemm_triton

    if not _small_kernels(x):
        return awq_gemm_torch(x, qweight, qzeros, scales)
    if len(x) <= MAX_FUSED_TOKENS:
        return awq_gemm_triton(x, qweight, qzeros, scales)
    return x @ awq_dequantize_triton(qweight, qzeros, scales)


def awq_dequantize(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
    """4-bit weights as numbers: W [in, out] in the type of the scales."""
    from minivllm.kernels.awq_dequantize import awq_dequantize_torch

    return awq_dequantize_torch(qweight, qzeros, scales)


def weight_only_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [T, in] times 8-bit weights [out, in] (int8 or float8_e4m3fn) and their scales [out] -> [T, out]."""
    from minivllm.kernels.weight_only_gemm import weight_only_gemm_torch, weight_only_gemm_triton

    fused = _small_kernels(x) and len(x) <= MAX_FUSED_TOKENS
    return weight_only_gemm_triton(x, weight, scale) if fused else weight_only_gemm_torch(x, weight, scale)


def argmax(x: Tensor) -> Tensor:
    """The first of the largest numbers of each row, [R, V] -> [R]. On a CPU numpy compares many at a time."""
    if x.is_cpu and x.dtype is torch.float32 and not x.requires_grad:
        return torch.from_numpy(x.numpy().argmax(-1))
    return x.argmax(-1)


def packs_weights(backend: AttentionBackend, dtype: torch.dtype) -> bool:
    """Do matrices lie as the C++ kernel reads them? Where it runs anyway, and computes in its type."""
    return backend.name == "cpp" and dtype is torch.float32


def panel_size() -> int:
    """Outputs of a packed matrix that lie side by side; needs `has_cpp()`."""
    from minivllm.kernels.cpu_ops import panel_size

    return panel_size()


def packed_linear(x: Tensor, packed: Tensor, out_features: int, bias: Tensor | None = None) -> Tensor:
    """x [T, in] float32 times a packed matrix (see layers/packed.py), plus bias [out] -> [T, out]."""
    from minivllm.kernels.cpu_ops import packed_linear_cpp

    return packed_linear_cpp(x, packed, out_features, bias)


def packed_rows(ids: Tensor, packed: Tensor) -> Tensor:
    """Rows ids [n] of a packed matrix -> [n, in] float32."""
    from minivllm.kernels.cpu_ops import packed_rows_cpp

    return packed_rows_cpp(ids, packed)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square of the last dimension (Zhang and Sennrich 2019), times weight: [..., n].

    The division is in float32 and rounded before the weight is applied, as the checkpoints were trained.
    """
    if _small_kernels(x):
        from minivllm.kernels.rms_norm import rms_norm_triton

        return rms_norm_triton(x, weight, eps)
    if _cpp_kernels(x):
        from minivllm.kernels.cpu_ops import rms_norm_cpp

        return rms_norm_cpp(x, weight, eps)
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """stream = x + residual, [T, n] each -> (rms_norm of the stream, the stream). A kernel does both in one pass."""
    if _small_kernels(x):
        from minivllm.kernels.rms_norm import add_rms_norm_triton

        return add_rms_norm_triton(x, residual, weight, eps)
    if _cpp_kernels(x):
        from minivllm.kernels.cpu_ops import add_rms_norm_cpp

        return add_rms_norm_cpp(x, residual, weight, eps)
    stream = x + residual
    return rms_norm(stream, weight, eps), stream


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + D/2) of x [T, heads, D] by its token's angle (Su et al. 2021, section 3.2.2).

    cos and sin are [T, 1, D], and the first half of sin is negated. So with x's halves (a, b) swapped,
    x * cos + swapped * sin = (a cos - b sin, b cos + a sin). x may be overwritten.
    """
    if _small_kernels(x):
        from minivllm.kernels.rotary import rotary_triton

        return rotary_triton(x, cos, sin)
    if _cpp_kernels(x):
        from minivllm.kernels.cpu_ops import rotary_cpp

        return rotary_cpp(x, cos, sin)
    swapped = x.roll(x.shape[-1] // 2, -1)
    return (x * cos).addcmul_(swapped, sin)


def silu_and_mul(x: Tensor) -> Tensor:
    """SwiGLU's gate (Shazeer 2020): silu of the first half of x [T, 2 n], times the second half -> [T, n]."""
    if _small_kernels(x):
        from minivllm.kernels.silu_and_mul import silu_and_mul_triton

        return silu_and_mul_triton(x)
    if _cpp_kernels(x):
        from minivllm.kernels.cpu_ops import silu_and_mul_cpp

        return silu_and_mul_cpp(x)
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


def fused_decoder(
    layers: Sequence[Mapping[str, Any]],
    final_norm: Tensor,
    angles: Tensor,
    heads: tuple[int, int, int],
    *,
    eps: float,
    scale: float,
) -> "CpuDecoder":
    """All layers of a decoder as one call in C++; needs `has_cpp()`. What layers hold: kernels/cpu_decoder.py.

    heads: (H, K, D).
    """
    from minivllm.kernels.cpu_decoder import CpuDecoder, DecoderShape, LayerWeights

    weights = [LayerWeights(**layer) for layer in layers]
    norm, down = weights[0].input_norm, weights[0].down  # [hidden], [hidden / panel, inner, panel]
    shape = DecoderShape(len(norm), *heads, down.shape[1], down.dtype == torch.bfloat16, eps, scale)
    return CpuDecoder(shape, weights, final_norm, angles)
