"""Output tokens per second of our engine beside transformers' generate, on the same requests, in turns."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from minivllm.bench import contestants, workload
from minivllm.bench.contestants import Contestant
from minivllm.bench.workload import BenchRequest

OURS = "minivllm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench throughput`."""
    parser.add_argument(
        "--model", default="tutor", help="a shipped model, a folder or a hub id (default: tutor)"
    )
    parser.add_argument(
        "--num-requests", "--num-prompts", type=int, default=64, help="all submitted at once (default: 64)"
    )
    parser.add_argument("--alone", action="store_true", help="without transformers beside it")
    parser.add_argument(
        "--static-batch-size", type=int, nargs="*", default=[8], help="of transformers (default: 8)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=3, help="rounds, each in another order (default: 3)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a table."""
    runners: dict[str, Contestant] = {OURS: contestants.minivllm(args.model)}
    for size in () if args.alone else args.static_batch_size:
        runners[f"transformers, static batches of {size}"] = contestants.transformers_static(args.model, size)
    vocab_size = 256
    warm_up = workload.mixed(8, vocab_size, repetition=-1)
    agreement = _agreement([runner(warm_up) for runner in runners.values()])
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for repetition in range(args.repetitions):
        requests = workload.mixed(args.num_requests, vocab_size, repetition)
        order = list(runners) if repetition % 2 == 0 else list(reversed(runners))
        for name in order:
            speeds[name].append(tokens_per_second(runners[name], requests))
    result = _summarize(speeds) | {
        "model": args.model,
        "num_requests": args.num_requests,
        "input_tokens": sum(len(r.prompt_token_ids) for r in requests),
        "output_tokens": sum(r.output_len for r in requests),
        "greedy_agreement": agreement,
    }
    _print(result)
    return result


def tokens_per_second(runner: Contestant, requests: Sequence[BenchRequest]) -> float:
    """Output tokens that were asked for, over the wall-clock time of all requests."""
    start = time.perf_counter()
    outputs = runner(requests)
    seconds = time.perf_counter() - start
    for request, output in zip(requests, outputs, strict=True):
        assert len(output) == request.output_len, "a contestant did not generate what was asked for"
    return sum(map(len, outputs)) / seconds


def _agreement(outputs: Sequence[list[list[int]]]) -> float:
    """Share of requests whose greedy tokens are the same for all contestants."""
    same = [all(other == first for other in rest) for first, *rest in zip(*outputs, strict=True)]
    return sum(same) / len(same)


def _summarize(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and spreads; the ratios are taken round by round, as the machine's speed drifts."""
    contestants_ = {
        name: {"output_tokens_per_second": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in speeds.items()
    }
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(speeds[OURS], values, strict=True))
        for name, values in speeds.items()
        if name != OURS
    }
    return {"contestants": contestants_, "ratio_of_minivllm_to": ratios}


def _print(result: dict[str, Any]) -> None:
    for name, row in result["contestants"].items():
        print(
            f"{name:36} {row['output_tokens_per_second']:9.1f} output tokens/s  ({row['min']:.0f} - {row['max']:.0f})"
        )
    for name, ratio in result["ratio_of_minivllm_to"].items():
        print(f"minivllm is {ratio:.2f} times as fast as {name}")
    if len(result["contestants"]) > 1:
        print(f"greedy tokens equal in {result['greedy_agreement']:.0%} of the requests of the warm-up")
