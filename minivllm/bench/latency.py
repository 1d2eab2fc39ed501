"""One request after the other: mean, P50 and P99 of what 100 calls take, in this process or of a running server.

Without --base-url the engine runs in this process, and a call is `LLM.generate` of one prompt, or of --batch-size
prompts. With it a call is one streamed completion over HTTP. Either way total = TTFT + (n - 1) x TPOT for n tokens.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from minivllm.bench.serve_client import Target, Timing, ask, first_model
from minivllm.bench.serve_report import describe, summarize
from minivllm.bench.serve_workload import ServeRequest, random_requests

PERCENTILES = (50, 90, 99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench latency`."""
    parser.add_argument("--model", help="default: tutor, or the first that the server lists")
    parser.add_argument("--base-url", help="of a running server, such as http://127.0.0.1:8000")
    parser.add_argument("--api-key", help="default: $OPENAI_API_KEY")
    parser.add_argument("--num-iters", type=int, default=100, help="calls (default: 100)")
    parser.add_argument("--num-iters-warmup", type=int, default=3, help="calls before them (default: 3)")
    parser.add_argument("--input-len", type=int, default=32, help="tokens (default: 32)")
    parser.add_argument("--output-len", type=int, default=50, help="tokens (default: 50)")
    parser.add_argument("--batch-size", type=int, default=1, help="prompts in a call (default: 1)")
    parser.add_argument("--vocab-size", type=int, default=256, help="random token ids are below this")
    parser.add_argument("--disable-tqdm", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and return the figures.

    Raises:
        SystemExit: an argument is out of range, or the server cannot be reached; with one sentence.
    """
    try:
        model, call = _caller(args)
        timings, seconds = measure(call, args)
    except ValueError as error:
        raise SystemExit(f"minivllm.bench latency: {error}") from error
    result = summarize(timings, seconds, PERCENTILES, {})
    print(describe(result, PERCENTILES))
    names = ("input_len", "output_len", "batch_size")
    return {"model": model, "base_url": args.base_url, **{n: getattr(args, n) for n in names}, **result}


def _caller(args: argparse.Namespace) -> tuple[str, Callable[[list[ServeRequest]], list[Timing]]]:
    for name in ("num_iters", "input_len", "output_len", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(args, name)}")
    if args.base_url is None:
        model = args.model or "tutor"
        return model, offline(model)
    if args.batch_size != 1:
        raise ValueError("batch_size must be 1 with base_url: bench serve sends many at once")
    target = Target(args.base_url, args.model or "", args.api_key or os.environ.get("OPENAI_API_KEY"))
    target = target if args.model else Target(**{**vars(target), "model": first_model(target)})
    return target.model, lambda requests: [ask(target, request) for request in requests]


def measure(
    call: Callable[[list[ServeRequest]], list[Timing]], args: argparse.Namespace
) -> tuple[list[Timing], float]:
    """(the timing of every request, seconds of all measured calls); each call has prompts of its own."""
    timings: list[Timing] = []
    started = time.perf_counter()
    total = args.num_iters_warmup + args.num_iters
    for index in tqdm(range(total), desc="calls", disable=args.disable_tqdm, dynamic_ncols=True):
        if index == args.num_iters_warmup:
            started = time.perf_counter()
        shape = (args.batch_size, args.input_len, args.output_len, 0.0, args.vocab_size, index)
        found = call(random_requests(*shape))
        timings += found if index >= args.num_iters_warmup else []
    return timings, time.perf_counter() - started


def offline(model: str) -> Callable[[list[ServeRequest]], list[Timing]]:
    """A call to an engine in this process; the moments are those that the engine notes."""
    from minivllm.llm import LLM
    from minivllm.sampling_params import SamplingParams

    llm = LLM(model)

    def call(requests: list[ServeRequest]) -> list[Timing]:
        params = [SamplingParams(temperature=0, max_tokens=r.output_len, ignore_eos=True) for r in requests]
        return [
            _timing(output) for output in llm.generate([r.prompt for r in requests], params, use_tqdm=False)
        ]

    return call


def _timing(output: Any) -> Timing:
    times, arrived = output.metrics, output.metrics.arrival_time
    num_tokens = len(output.outputs[0].token_ids)
    return Timing(
        ttft=times.first_token_time - arrived,
        e2el=times.finished_time - arrived,
        num_prompt_tokens=len(output.prompt_token_ids),
        num_output_tokens=num_tokens,
    )
