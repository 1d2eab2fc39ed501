"""The kernels on a GPU: decode attention against a plain copy, and products with 4-bit weights against 16-bit ones.

Decode attention reads the whole context once and computes little, so its speed is compared with the fastest way to move
as many bytes: a copy, measured in the same run. Beside it stand torch's attention on contexts that lie gathered, and
the kernels of other libraries that are installed. Every result is also compared with torch's. --smoke runs all of it
with tiny sizes, on a CPU too (interpreted): to see that it works, not how fast.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from minivllm import ops
from minivllm.attention.cache_dtype import from_cache, movable, to_cache
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.bench.library_kernels import DecodeCase, prepare

BATCHES: tuple[int, ...] = (1, 8, 32, 128, 256)
CONTEXTS: tuple[int, ...] = (512, 2048, 8192, 32768)
TOKENS: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
CACHE_DTYPES = (torch.bfloat16, torch.float8_e4m3fn)
BLOCK_SIZE = 16
SMOKE = {"heads": 4, "kv_heads": 2, "head_size": 64, "in_features": 256, "out_features": 128}
SMOKE_BATCHES, SMOKE_CONTEXTS, SMOKE_TOKENS = (1, 3), (32, 64), (1, 17)
FLUSH_BYTES = 2 * 2**30  # more than any cache of a device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench kernels`."""
    parser.add_argument("--heads", type=int, default=32, help="query heads (default: 32)")
    parser.add_argument("--kv-heads", type=int, default=8, help="key/value heads (default: 8)")
    parser.add_argument("--head-size", type=int, default=128, help="(default: 128)")
    parser.add_argument("--in-features", type=int, default=4096, help="of the matrix (default: 4096)")
    parser.add_argument("--out-features", type=int, default=14336, help="of the matrix (default: 14336)")
    parser.add_argument("--no-libraries", action="store_true", help="ours and torch's only")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any device")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print two tables."""
    device = find_device("kernels", args.smoke)
    batches, contexts, tokens = BATCHES, CONTEXTS, TOKENS
    if args.smoke:
        vars(args).update(SMOKE)
        batches, contexts, tokens = SMOKE_BATCHES, SMOKE_CONTEXTS, SMOKE_TOKENS
    timer = Timer(device, args.smoke)
    copy = copy_bandwidth(timer)
    print(f"a copy moves {copy / 1e9:,.1f} GB/s")
    attention = [
        decode_attention(args, batch, context, stored, copy, timer)
        for stored in CACHE_DTYPES
        for batch in batches
        for context in contexts
    ]
    products = [awq_product(args, num_tokens, timer) for num_tokens in tokens]
    return {
        "smoke": args.smoke,
        **{name: getattr(args, name) for name in SMOKE},
        "copy_bytes_per_second": copy,
        "decode_attention": attention,
        "awq_product": products,
    }


def find_device(command: str, smoke: bool) -> str:
    """The device to measure on. Only a smoke run takes a CPU."""
    if torch.cuda.is_available():
        return "cuda"
    if not smoke:
        sys.exit(f"bench {command}: needs a CUDA device, and torch sees none here.")
    return "cpu"


class Timer:
    """Median time of one call on the device; in a smoke run of a single call."""

    def __init__(self, device: str, smoke: bool) -> None:
        self.device, self.repeats = device, 1 if smoke else 50
        self.flush = torch.empty(2**20 if smoke else FLUSH_BYTES, dtype=torch.int8, device=device)

    def seconds(self, function: Callable[[], object]) -> float:
        """Time a call, after three that are not timed.

        Between calls a large write clears the device's cache. It also takes longer than Python needs to launch what is
        measured, so that the device never waits for Python between the two events.
        """
        if self.device == "cpu":
            start = time.perf_counter()
            function()
            return time.perf_counter() - start
        for _ in range(3):
            function()
        times = []
        for _ in range(self.repeats):
            self.flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return sorted(times)[self.repeats // 2]


def copy_bandwidth(timer: Timer) -> float:
    """Bytes read and written per second when one tensor is copied to another, a large one."""
    source = torch.zeros(len(timer.flush) // 2, dtype=torch.int8, device=timer.device)
    target = torch.empty_like(source)
    return 2 * len(source) / timer.seconds(lambda: target.copy_(source))


def cache_bytes(args: argparse.Namespace, batch: int, context: int, stored: torch.dtype) -> int:
    """Keys and values of all requests."""
    return 2 * batch * context * args.kv_heads * args.head_size * stored.itemsize


def has_room(args: argparse.Namespace, batch: int, context: int, stored: torch.dtype, device: str) -> bool:
    """Whether the cache, the same gathered in 16 bits, and what lies there while they are made fit into memory."""
    if device == "cpu":
        return True
    torch.cuda.empty_cache()
    gathered = cache_bytes(args, batch, context, torch.bfloat16)
    return cache_bytes(args, batch, context, stored) + 2 * gathered < 0.9 * torch.cuda.mem_get_info()[0]


def make_case(
    args: argparse.Namespace, batch: int, context: int, stored: torch.dtype, device: str
) -> DecodeCase:
    """Random contexts in random blocks, and one query for each."""
    blocks = batch * context // BLOCK_SIZE
    shape = (blocks + 1, BLOCK_SIZE, args.kv_heads, args.head_size)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.bfloat16, device=device)

    cache = LayerKVCache(*(to_cache(randn(*shape), stored) for _ in range(2)))
    tables = (torch.randperm(blocks, device=device) + 1).int().view(batch, -1)
    metadata = AttentionMetadata(
        slot_mapping=torch.zeros(batch, dtype=torch.int64, device=device),
        query_start_loc=torch.arange(batch + 1, dtype=torch.int32, device=device),
        seq_lens=torch.full((batch,), context, dtype=torch.int32, device=device),
        block_tables=tables,
        max_query_len=1,
        max_seq_len=context,
        block_size=BLOCK_SIZE,
    )
    gathered = LayerKVCache(  # [R, S, K, D]
        *(from_cache(movable(t)[tables.long()].view(stored), torch.bfloat16).flatten(1, 2) for t in cache)
    )
    query = randn(batch, args.heads, args.head_size)
    return DecodeCase(query, cache, metadata, gathered, args.head_size**-0.5)


def decode_attention(
    args: argparse.Namespace, batch: int, context: int, stored: torch.dtype, copy: float, timer: Timer
) -> dict[str, Any]:
    """One new token for each request; torch's form is timed on contexts that lie gathered already, in 16 bits."""
    row: dict[str, Any] = {
        "cache": str(stored).removeprefix("torch."),
        "batch": batch,
        "context": context,
    }
    if not has_room(args, batch, context, stored, timer.device):
        row["left_out"] = "it does not fit into the device's memory"
        return shown("decode attention", row)
    case = make_case(args, batch, context, stored, timer.device)
    backend = ops.attention_backend("triton", timer.device)

    def by_torch() -> torch.Tensor:
        keys, values = (tensor.transpose(1, 2) for tensor in case.gathered)
        query = case.query[:, :, None]
        return F.scaled_dot_product_attention(query, keys, values, scale=case.scale, enable_gqa=True)[:, :, 0]

    def by_kernel() -> torch.Tensor:
        return backend.attend(case.query, case.cache, case.metadata, scale=case.scale)

    seconds, expected = timer.seconds(by_kernel), by_torch().float()
    row |= {
        "microseconds": 1e6 * seconds,
        "share_of_copy": cache_bytes(args, batch, context, stored) / seconds / copy,
        "torch_microseconds": 1e6 * timer.seconds(by_torch),
        "largest_difference": float((by_kernel().float() - expected).abs().max()),
        "libraries": {
            name: call
            if isinstance(call, str)
            else {
                "microseconds": 1e6 * timer.seconds(call),
                "largest_difference": float((call().float() - expected).abs().max()),
            }
            for name, call in ({} if args.no_libraries else prepare(case)).items()
        },
    }
    return shown("decode attention", row)


def shown(title: str, row: dict[str, Any]) -> dict[str, Any]:
    """Print a row, and give it back."""
    print(title, {n: round(v, 4) if isinstance(v, float) else v for n, v in row.items()}, flush=True)
    return row


def awq_product(
    args: argparse.Namespace, num_tokens: int, timer: Timer, group_size: int = 128
) -> dict[str, Any]:
    """x times W in 4 bits, on a GPU by the fused kernel, beside the same W unpacked in 16 bits."""
    num_in, num_out, device = args.in_features, args.out_features, timer.device

    def random_words(rows: int) -> torch.Tensor:
        words = torch.randint(-(2**31), 2**31 - 1, (rows, num_out // 8), device=device)
        return words.to(torch.int32)

    qweight, qzeros = random_words(num_in), random_words(num_in // group_size)
    scales = torch.rand(num_in // group_size, num_out, dtype=torch.bfloat16, device=device) * 0.01
    x = torch.randn(num_tokens, num_in, dtype=torch.bfloat16, device=device)
    dense = ops.awq_dequantize(qweight, qzeros, scales)

    def by_kernel() -> torch.Tensor:
        return ops.awq_linear(x, qweight, qzeros, scales)

    seconds, expected = timer.seconds(by_kernel), x.float() @ dense.float()
    difference = (by_kernel().float() - expected).abs().max() / expected.abs().max()
    row = {
        "tokens": num_tokens,
        "microseconds": 1e6 * seconds,
        "bfloat16_microseconds": 1e6 * timer.seconds(lambda: x @ dense),
        "largest_relative_difference": float(difference),
    }
    return shown("4-bit product", row)
