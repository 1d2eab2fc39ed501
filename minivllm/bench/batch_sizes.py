"""The same engine with 1, 4, 8 and 16 requests at a time: tokens per second, time of a batch, KV cache in use.

Every repetition goes through the sizes in another order; medians are reported. What a step costs beside its tokens
(reading the weights, Python) is shared by the batch, so tokens per second grow until arithmetic or memory is used up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from minivllm.bench.serve_workload import random_requests
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench batch-sizes`."""
    parser.add_argument("--model", default="tutor", help="(default: tutor)")
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[1, 4, 8, 16], metavar="N", help="(default: 1 4 8 16)"
    )
    parser.add_argument("--input-len", type=int, default=64, help="tokens (default: 64)")
    parser.add_argument("--output-len", type=int, default=64, help="tokens (default: 64)")
    parser.add_argument("--repetitions", type=int, default=5, help="(default: 5)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table and return the figures: one entry for each batch size.

    Raises:
        SystemExit: an argument is out of range; with one sentence.
    """
    numbers = {
        "batch_size": min(args.batch_size),
        **{n: getattr(args, n) for n in ("input_len", "output_len")},
    }
    for name, value in {**numbers, "repetitions": args.repetitions}.items():
        if value < 1:
            raise SystemExit(f"minivllm.bench batch-sizes: {name} must be at least 1, not {value}")
    llm = LLM(args.model)
    sizes = sorted(set(args.batch_size))
    _batch(llm, args, sizes[-1], seed=-1)  # the first steps warm caches up
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for repetition in range(args.repetitions):
        for size in sizes if repetition % 2 == 0 else reversed(sizes):
            seconds[size].append(_batch(llm, args, size, seed=repetition))
    block_size = llm.llm_engine.config.block_size
    num_blocks = -(-(args.input_len + args.output_len - 1) // block_size)  # the last token is never fed back
    rows = {str(size): _row(size, seconds[size], args.output_len, num_blocks) for size in sizes}
    print(table(rows))
    return {"model": args.model, **{n: numbers[n] for n in ("input_len", "output_len")}, "batch_sizes": rows}


def _batch(llm: LLM, args: argparse.Namespace, size: int, seed: int) -> float:
    """Seconds for a batch of prompts that nobody has seen before."""
    llm.reset_prefix_cache()
    prompts = [r.prompt for r in random_requests(size, args.input_len, 1, 0.0, 256, seed)]
    params = SamplingParams(temperature=0, max_tokens=args.output_len, ignore_eos=True)
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    assert all(len(output.outputs[0].token_ids) == args.output_len for output in outputs)
    return seconds


def _row(size: int, seconds: list[float], output_len: int, num_blocks: int) -> dict[str, float]:
    median = statistics.median(seconds)
    return {
        "throughput": size * output_len / median,  # output tokens per second
        "latency_ms": 1000 * median,  # of the whole batch
        "min_latency_ms": 1000 * min(seconds),
        "max_latency_ms": 1000 * max(seconds),
        "kv_blocks": size * num_blocks,
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """A line for each batch size."""
    lines = [f"{'batch':>6}{'tokens/s':>12}{'batch ms':>12}{'(min - max)':>20}{'KV blocks':>12}"]
    for size, row in rows.items():
        spread = f"({row['min_latency_ms']:.0f} - {row['max_latency_ms']:.0f})"
        lines.append(
            f"{size:>6}{row['throughput']:12.1f}{row['latency_ms']:12.1f}{spread:>20}{row['kv_blocks']:12d}"
        )
    return "\n".join(lines)
