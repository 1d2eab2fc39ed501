"""Products of few tokens with a large matrix on a CPU: torch's, and with packed weights in 32 and in 16 bits.

The matrix is larger than any cache, so for one token its bytes are what takes the time. All results are compared.
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
from minivllm.layers.packed import packed_parameter, put_rows

TOKENS = (1, 2, 4, 8, 16, 32, 64, 256)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench linear`."""
    parser.add_argument("--in-features", type=int, default=1024, help="of the matrix (default: 1024)")
    parser.add_argument("--out-features", type=int, default=65536, help="of the matrix (default: 65536)")
    parser.add_argument("--repetitions", type=int, default=9, help="of each, the fastest counts (default: 9)")
    parser.add_argument("--note", help="what else the machine did, for the result")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a table."""
    if not ops.has_cpp():
        sys.exit("bench linear: needs the C++ kernels, and they cannot be built here.")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(args.out_features, args.in_features, generator=generator).bfloat16()
    wide = weight.float()
    packed = {
        dtype: packed_parameter(args.out_features, args.in_features, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    for target in packed.values():
        put_rows(target.data, 0, weight)
    print(f"{'tokens':>6} {'torch':>9} {'packed':>9} {'16 bits':>9}   ms")
    rows = [_row(n, wide, packed, args.repetitions) for n in TOKENS]
    result = {"in_features": args.in_features, "out_features": args.out_features, "rows": rows}
    return {"note": args.note, **result} if args.note else result


def _row(
    num_tokens: int, wide: torch.Tensor, packed: dict[torch.dtype, torch.nn.Parameter], repetitions: int
) -> dict[str, Any]:
    x = torch.randn(num_tokens, wide.shape[1])
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "torch_ms": lambda: F.linear(x, wide),
        "packed_ms": lambda: ops.packed_linear(x, packed[torch.float32], len(wide)),
        "bfloat16_ms": lambda: ops.packed_linear(x, packed[torch.bfloat16], len(wide)),
    }
    expected = ways["torch_ms"]()
    differences = [float((way() - expected).abs().max()) for way in ways.values()]
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repetitions):  # in turns: the machine's speed drifts
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    print(f"{num_tokens:6}" + "".join(f"{value:10.2f}" for value in best.values()), flush=True)
    ratio = best["torch_ms"] / best["bfloat16_ms"]
    return {"tokens": num_tokens, **best, "ratio": ratio, "largest_difference": max(differences)}
