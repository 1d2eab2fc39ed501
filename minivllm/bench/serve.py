"""A running OpenAI-compatible server under load: throughput and latency at a request rate or a concurrency.

Flags have the names of `vllm bench serve`. `--matrix 1 10 50 100` runs one concurrency after the other and prints a
table; `--plot` draws it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from minivllm.bench.serve_client import Target, first_model, run_all
from minivllm.bench.serve_report import describe, parse_goodput, summarize
from minivllm.bench.serve_workload import ServeRequest, prefix_repetition, random_requests, sharegpt

DATASETS = ("random", "sharegpt", "prefix_repetition")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument(
        "--base-url", default="http://127.0.0.1:8000", help="(default: http://127.0.0.1:8000)"
    )
    parser.add_argument("--host", help="instead of a base URL: the server's name or address")
    parser.add_argument("--port", type=int, help="goes with --host (default: 8000)")
    parser.add_argument("--backend", default="openai", help="openai or vllm: both are OpenAI's completions")
    parser.add_argument("--model", help="default: the first that the server lists")
    parser.add_argument("--api-key", help="default: $OPENAI_API_KEY")
    parser.add_argument("--num-prompts", type=int, default=100, help="(default: 100)")
    parser.add_argument(
        "--request-rate", type=float, default=float("inf"), help="per second (default: all at once)"
    )
    parser.add_argument("--max-concurrency", type=int, help="most requests at a time (default: no limit)")
    parser.add_argument("--matrix", type=int, nargs="+", metavar="N", help="run each of these concurrencies")
    parser.add_argument("--plot", metavar="PATH", help="draw the matrix into this PNG or SVG file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument(
        "--allow-eos", action="store_true", help="let answers end early (default: they never do)"
    )
    parser.add_argument("--percentiles", default="50,90,99", help="(default: 50,90,99)")
    parser.add_argument(
        "--goodput", nargs="+", default=[], metavar="LATENCY:MS", help="such as ttft:200 tpot:50"
    )
    parser.add_argument("--disable-tqdm", action="store_true", help="no progress bar")
    data = parser.add_argument_group("dataset")
    data.add_argument("--dataset-name", choices=DATASETS, default="random", help="(default: random)")
    data.add_argument("--dataset-path", help="of a ShareGPT file")
    data.add_argument("--dataset", metavar="PATH", help="the older way to say sharegpt with this file")
    data.add_argument("--vocab-size", type=int, default=1000, help="random token ids are below this")
    data.add_argument("--random-input-len", type=int, default=128)
    data.add_argument("--random-output-len", type=int, default=64)
    data.add_argument("--random-range-ratio", type=float, default=0.0)
    data.add_argument("--prefix-repetition-prefix-len", type=int, default=256)
    data.add_argument("--prefix-repetition-suffix-len", type=int, default=32)
    data.add_argument("--prefix-repetition-num-prefixes", type=int, default=10)
    data.add_argument("--prefix-repetition-output-len", type=int, default=64)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and return the figures.

    Raises:
        SystemExit: an argument is out of range, or the server cannot be reached; with one sentence.
    """
    try:
        return _run(args)
    except ValueError as error:
        raise SystemExit(f"minivllm.bench serve: {error}") from error


def _run(args: argparse.Namespace) -> dict[str, Any]:
    for name in ("num_prompts", "max_concurrency"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(args, name)}")
    if not args.request_rate > 0:
        raise ValueError(f"request_rate must be above 0, not {args.request_rate}")
    if args.backend not in ("openai", "vllm"):
        raise ValueError(
            f"backend must be openai or vllm, a server, not {args.backend!r}: transformers is compared with by "
            "`bench throughput`"
        )
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        raise ValueError('--plot needs matplotlib: pip install "minivllm[lab]", or leave --plot out')
    percentiles = _percentiles(args.percentiles)
    target = Target(
        _base_url(args),
        args.model or "",
        args.api_key or os.environ.get("OPENAI_API_KEY"),
        args.temperature,
        ignore_eos=not args.allow_eos,
    )
    if args.model is None:
        target = Target(**{**vars(target), "model": first_model(target)})
    if args.matrix is None:
        return {"model": target.model, **_measure(args, target, args.max_concurrency, percentiles)}
    rows = [{"max_concurrency": n, **_measure(args, target, n, percentiles)} for n in args.matrix]
    print(table(rows))
    if args.plot:
        plot(rows, args.plot)
    return {"model": target.model, "rows": rows}


def _base_url(args: argparse.Namespace) -> str:
    if args.host is None and args.port is None:
        return str(args.base_url)
    return f"http://{args.host or '127.0.0.1'}:{8000 if args.port is None else args.port}"


def _measure(
    args: argparse.Namespace, target: Target, max_concurrency: int | None, percentiles: Sequence[float]
) -> dict[str, Any]:
    goodput = parse_goodput(args.goodput)
    timings, seconds = run_all(
        target,
        requests_of(args),
        request_rate=args.request_rate,
        max_concurrency=max_concurrency,
        seed=args.seed,
        show_progress=not args.disable_tqdm,
    )
    result = summarize(timings, seconds, percentiles, goodput)
    print(describe(result, percentiles))
    return result


def requests_of(args: argparse.Namespace) -> list[ServeRequest]:
    """The workload that the arguments describe.

    Raises:
        ValueError: it makes no sense.
    """
    path = args.dataset_path or args.dataset
    if args.dataset_name == "sharegpt" or args.dataset:
        if path is None:
            raise ValueError("dataset_path is needed: dataset_name sharegpt reads a file")
        return sharegpt(path, args.num_prompts, args.seed)
    if args.dataset_name == "prefix_repetition":
        return prefix_repetition(
            args.num_prompts,
            args.prefix_repetition_prefix_len,
            args.prefix_repetition_suffix_len,
            args.prefix_repetition_num_prefixes,
            args.prefix_repetition_output_len,
            args.vocab_size,
            args.seed,
        )
    return random_requests(
        args.num_prompts,
        args.random_input_len,
        args.random_output_len,
        args.random_range_ratio,
        args.vocab_size,
        args.seed,
    )


def _percentiles(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not all(0 <= value <= 100 for value in values):
        raise ValueError(f"percentiles must be numbers from 0 to 100 with commas between them, not {text!r}")
    return values


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The matrix: a line for each concurrency."""
    lines = [
        f"{'concurrency':>12}{'requests/s':>12}{'tokens/s':>12}{'TTFT ms':>10}{'TPOT ms':>10}{'E2EL ms':>10}"
    ]
    for row in rows:
        latencies = "".join(
            f"{row.get(f'mean_{name}_ms', float('nan')):10.1f}" for name in ("ttft", "tpot", "e2el")
        )
        throughput = f"{row['request_throughput']:12.2f}{row['output_throughput']:12.1f}"
        lines.append(f"{row['max_concurrency']:12d}{throughput}{latencies}")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Tokens per second and latency over the concurrency."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = [row["max_concurrency"] for row in rows]
    left.plot(at, [row["output_throughput"] for row in rows], marker="o", color="#0072b2")
    left.set(xlabel="concurrent requests", ylabel="output tokens per second", xscale="log", ylim=(0, None))
    for name, colour, marker in (("ttft", "#e69f00", "s"), ("e2el", "#009e73", "^")):
        values = [row.get(f"mean_{name}_ms") for row in rows]
        right.plot(at, values, marker=marker, color=colour, label=name.upper())
    right.set(xlabel="concurrent requests", ylabel="mean milliseconds", xscale="log", yscale="log")
    right.legend()
    for axes in (left, right):
        axes.set_xticks(at, [str(n) for n in at])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path)
