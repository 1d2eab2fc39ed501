"""The kernels on a GPU: decode attention against a plain copy, and products with 4-bit weights against 16-bit ones.

Decode attention reads the whole context once and computes little, so its speed is compared with the fastest way to move
as many bytes: a copy, measured in the same run. Every result is also compared with torch's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from minivllm import ops
from minivllm.attention.cache_dtype import from_cache, movable, to_cache
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache

BATCHES, CONTEXTS = (1, 8, 32, 128, 256), (512, 2048, 8192, 32768)
TOKENS = (1, 2, 4, 8, 16, 32, 64)
CACHE_DTYPES = (torch.bfloat16, torch.float8_e4m3fn)
BLOCK_SIZE, MAX_CACHE_BYTES = 16, 8 * 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench kernels`."""
    parser.add_argument("--heads", type=int, default=32, help="query heads (default: 32)")
    parser.add_argument("--kv-heads", type=int, default=8, help="key/value heads (default: 8)")
    parser.add_argument("--head-size", type=int, default=128, help="(default: 128)")
    parser.add_argument("--in-features", type=int, default=4096, help="of the matrix (default: 4096)")
    parser.add_argument("--out-features", type=int, default=14336, help="of the matrix (default: 14336)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print two tables."""
    if not torch.cuda.is_available():
        sys.exit("bench kernels: needs a CUDA device, and torch sees none here.")
    copy = copy_bandwidth()
    print(f"a copy moves {copy / 1e9:,.0f} GB/s")
    attention = [
        decode_attention(args, batch, context, stored, copy)
        for stored in CACHE_DTYPES
        for batch in BATCHES
        for context in CONTEXTS
        if cache_bytes(args, batch, context, stored) <= MAX_CACHE_BYTES
    ]
    products = [awq_product(args, num_tokens) for num_tokens in TOKENS]
    return {"copy_bytes_per_second": copy, "decode_attention": attention, "awq_product": products}


def seconds(function: Callable[[], object], repeats: int = 50) -> float:
    """Median time of one call on the device.

    Between calls a large write clears the device's cache. It also takes longer than Python needs to launch what is
    measured, so that the device never waits for Python between the two events.
    """
    flush = torch.empty(2 * 2**30, dtype=torch.int8, device="cuda")
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[repeats // 2]


def copy_bandwidth(num_bytes: int = 2**30) -> float:
    """Bytes read and written per second when one tensor is copied to another."""
    source = torch.zeros(num_bytes, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * num_bytes / seconds(lambda: target.copy_(source))


def cache_bytes(args: argparse.Namespace, batch: int, context: int, stored: torch.dtype) -> int:
    """Keys and values of all requests."""
    return 2 * batch * context * args.kv_heads * args.head_size * stored.itemsize


def decode_attention(
    args: argparse.Namespace, batch: int, context: int, stored: torch.dtype, copy: float
) -> dict[str, Any]:
    """One new token for each request; torch's form is timed on contexts that lie gathered already, in 16 bits."""
    blocks = batch * context // BLOCK_SIZE
    shape = (blocks + 1, BLOCK_SIZE, args.kv_heads, args.head_size)
    cache = LayerKVCache(
        *(to_cache(torch.randn(shape, dtype=torch.bfloat16, device="cuda"), stored) for _ in range(2))
    )
    tables = (torch.randperm(blocks, device="cuda") + 1).int().view(batch, -1)
    query = torch.randn(batch, args.heads, args.head_size, dtype=torch.bfloat16, device="cuda")
    metadata = AttentionMetadata(
        slot_mapping=torch.zeros(batch, dtype=torch.int64, device="cuda"),
        query_start_loc=torch.arange(batch + 1, dtype=torch.int32, device="cuda"),
        seq_lens=torch.full((batch,), context, dtype=torch.int32, device="cuda"),
        block_tables=tables,
        max_query_len=1,
        max_seq_len=context,
        block_size=BLOCK_SIZE,
    )
    backend, scale = ops.attention_backend("triton", "cuda"), args.head_size**-0.5
    keys, values = (  # [R, K, S, D]
        from_cache(movable(tensor)[tables.long()].view(stored), query.dtype).flatten(1, 2).transpose(1, 2)
        for tensor in cache
    )

    def by_torch() -> torch.Tensor:
        return F.scaled_dot_product_attention(query[:, :, None], keys, values, scale=scale, enable_gqa=True)[
            :, :, 0
        ]

    def by_kernel() -> torch.Tensor:
        return backend.attend(query, cache, metadata, scale=scale)

    time = seconds(by_kernel)
    row = {
        "cache": str(stored).removeprefix("torch."),
        "batch": batch,
        "context": context,
        "microseconds": 1e6 * time,
        "share_of_copy": cache_bytes(args, batch, context, stored) / time / copy,
        "torch_microseconds": 1e6 * seconds(by_torch),
        "largest_difference": float((by_kernel().float() - by_torch().float()).abs().max()),
    }
    print(
        "decode attention",
        {n: round(v, 4) if isinstance(v, float) else v for n, v in row.items()},
        flush=True,
    )
    return row


def awq_product(args: argparse.Namespace, num_tokens: int, group_size: int = 128) -> dict[str, Any]:
    """x times W in 4 bits, beside the same W unpacked in 16 bits."""
    num_in, num_out = args.in_features, args.out_features

    def random_words(rows: int) -> torch.Tensor:
        words = torch.randint(-(2**31), 2**31 - 1, (rows, num_out // 8), device="cuda")
        return words.to(torch.int32)

    qweight, qzeros = random_words(num_in), random_words(num_in // group_size)
    scales = torch.rand(num_in // group_size, num_out, dtype=torch.bfloat16, device="cuda") * 0.01
    x = torch.randn(num_tokens, num_in, dtype=torch.bfloat16, device="cuda")
    dense = ops.awq_dequantize(qweight, qzeros, scales)
    time = seconds(lambda: ops.awq_linear(x, qweight, qzeros, scales))
    expected = x.float() @ dense.float()
    difference = (
        ops.awq_linear(x, qweight, qzeros, scales).float() - expected
    ).abs().max() / expected.abs().max()
    row = {
        "tokens": num_tokens,
        "microseconds": 1e6 * time,
        "bfloat16_microseconds": 1e6 * seconds(lambda: x @ dense),
        "largest_relative_difference": float(difference),
    }
    print("4-bit product", {name: round(value, 4) for name, value in row.items()}, flush=True)
    return row
