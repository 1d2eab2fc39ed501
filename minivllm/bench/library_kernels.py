"""Decode attention of other libraries over the same paged cache, where one is installed beside torch.

FlashInfer and vLLM's build of FlashAttention read the cache through the block tables, as our kernel does. The package
flash_attn wants pages of 256 tokens at least, so it gets what torch gets: contexts that lie gathered already.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache

# What a library raises that is not installed, was not built for this device, or does not know these types and sizes.
REFUSALS = (
    ImportError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    KeyError,
)
WORKSPACE_BYTES = 256 * 2**20


class DecodeCase(NamedTuple):
    """One new token for each request, all contexts equally long and in whole blocks."""

    query: Tensor  # [R, H, D]
    cache: LayerKVCache
    metadata: AttentionMetadata
    gathered: LayerKVCache  # keys and values [R, S, K, D], in the query's type
    scale: float


def prepare(case: DecodeCase) -> dict[str, Callable[[], Tensor] | str]:
    """Library -> a call that gives [R, H, D], already tried once; or why there is none."""
    prepared: dict[str, Callable[[], Tensor] | str] = {}
    for name, make in LIBRARIES.items():
        try:
            call = make(case)
            call()
            prepared[name] = call
        except REFUSALS as error:
            prepared[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return prepared


def flashinfer(case: DecodeCase) -> Callable[[], Tensor]:
    """Its wrapper for decoding; how the work is divided is planned beforehand, as in an engine."""
    library: Any = import_module("flashinfer")
    device, tables = case.query.device, case.metadata.block_tables
    num_requests, num_blocks = tables.shape
    _, num_heads, head_size = case.query.shape
    num_kv_heads = case.cache.key.shape[2]
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    wrapper = library.BatchDecodeWithPagedKVCacheWrapper(
        workspace, "NHD", use_tensor_cores=num_heads // num_kv_heads >= 4
    )
    starts = torch.arange(num_requests + 1, dtype=torch.int32, device=device) * num_blocks
    last_page_len = torch.full(
        (num_requests,), case.metadata.block_size, dtype=torch.int32, device=device
    )  # all blocks are full
    wrapper.plan(
        starts,
        tables.flatten(),
        last_page_len,
        num_heads,
        num_kv_heads,
        head_size,
        case.metadata.block_size,
        q_data_type=case.query.dtype,
        kv_data_type=case.cache.key.dtype,
        sm_scale=case.scale,
    )
    return lambda: wrapper.run(case.query, tuple(case.cache))


def vllm(case: DecodeCase) -> Callable[[], Tensor]:
    """FlashAttention as vLLM builds it. It takes an 8-bit cache only with 8-bit queries, so that one is left out."""
    if case.cache.key.dtype != case.query.dtype:
        raise TypeError("the cache must have the query's type")
    attend: Any = import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
    version = import_module("vllm.v1.attention.backends.fa_utils").get_flash_attn_version()
    meta = case.metadata
    return lambda: attend(
        case.query,
        *case.cache,
        max_seqlen_q=1,
        cu_seqlens_q=meta.query_start_loc,
        max_seqlen_k=meta.max_seq_len,
        seqused_k=meta.seq_lens,
        softmax_scale=case.scale,
        causal=True,
        block_table=meta.block_tables,
        fa_version=version,
    )


def flash_attn(case: DecodeCase) -> Callable[[], Tensor]:
    """On gathered contexts [R, S, K, D]."""
    attend: Any = import_module("flash_attn").flash_attn_with_kvcache
    query, lens = case.query[:, None], case.metadata.seq_lens
    return lambda: attend(query, *case.gathered, cache_seqlens=lens, softmax_scale=case.scale, causal=True)[
        :, 0
    ]


LIBRARIES = {"flashinfer": flashinfer, "vllm": vllm, "flash_attn, gathered": flash_attn}
