"""What a decode step costs as running requests and contexts grow, the memory of a token, and how soon `serve` is ready.

Only the steps that are measured are computed: prompts take their blocks and skip the model, so that a context of 32,768
tokens costs no minutes. The cache then holds zeros, which are read as slowly as anything else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from minivllm.bench.live_server import LiveServer
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams
from minivllm.viz.bars import Bar, Bars, draw_bars
from minivllm.worker.model_runner import ModelRunner

BLOCK_SIZE, BUDGET = 16, 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench scale`."""
    parser.add_argument(
        "--model", default="tutor", help="a shipped model, a folder or a hub id (default: tutor)"
    )
    parser.add_argument(
        "--requests", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024], help="(default: 1 to 1024)"
    )
    parser.add_argument("--context", type=int, default=128, help="of those requests (default: 128)")
    parser.add_argument(
        "--contexts",
        type=int,
        nargs="+",
        default=[128, 512, 2048, 8192, 32768],
        help="(default: 128 to 32768)",
    )
    parser.add_argument("--batch", type=int, default=4, help="requests of each such context (default: 4)")
    parser.add_argument(
        "--steps", type=int, default=12, help="of each kind, the fastest counts (default: 12)"
    )
    parser.add_argument("--starts", type=int, default=3, help="of the server; 0: none (default: 3)")
    parser.add_argument("--plot", metavar="PATH", help="draw the step costs there, as SVG")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a table."""
    cells = [(n, args.context) for n in args.requests] + [(args.batch, length) for length in args.contexts]
    llm = _load(args.model, cells, args.steps)
    rows = [measure(llm, *cell, args.steps) for cell in cells]
    by_requests, by_context = rows[: len(args.requests)], rows[len(args.requests) :]
    result = {
        "model": args.model,
        "steps": args.steps,
        "by_requests": by_requests,
        "by_context": by_context,
        "kv_bytes_per_token": bytes_per_token(llm),
        "serve_ready_seconds": [round(seconds_until_ready(args.model), 2) for _ in range(args.starts)],
    }
    print(f"a token takes {result['kv_bytes_per_token']:,} bytes of KV cache")
    print("serve was ready after", *result["serve_ready_seconds"], "seconds")
    if args.plot:
        Path(args.plot).write_text(plot(by_requests, by_context), encoding="utf-8")
    return result


def measure(llm: LLM, num_requests: int, context: int, num_steps: int) -> dict[str, Any]:
    """The fastest decode step of `num_requests` requests of `context` tokens each, and where its time goes."""
    engine = llm.llm_engine
    runner: ModelRunner = engine.executor.runner  # type: ignore[attr-defined]  # one process
    max_tokens = output_len(num_requests, context, num_steps)
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
    names = [f"{num_requests}-{context}-{number}" for number in range(num_requests)]
    for name in names:
        engine.add_request(name, {"prompt_token_ids": [7] * context}, params)
    with without_model(runner):
        while any(not r.num_output_tokens for r in engine.scheduler.requests.values()):
            engine.step()
    steps = [_timed_step(llm, runner) for _ in range(num_steps + 1)][1:]
    engine.abort_request(names)
    engine.step()  # tells the runner
    total, model = min(steps)
    row = {
        "requests": num_requests,
        "context": context,
        "ms_per_step": round(1000 * total, 3),
        "ms_in_model": round(1000 * model, 3),
        "us_per_token": round(1e6 * total / num_requests, 1),
    }
    print(
        f"{num_requests:5} requests of {context:6,} tokens: {row['ms_per_step']:9.2f} ms per step, "
        f"{row['ms_in_model']:9.2f} in the model, {row['us_per_token']:9.1f} us per new token",
        flush=True,
    )
    return row


def output_len(num_requests: int, context: int, num_steps: int) -> int:
    """So many tokens that the first request is still running when the last one has been measured.

    The first ones write while the others' prompts are read, BUDGET tokens a step.
    """
    return num_steps + 4 + num_requests * context // BUDGET


def bytes_per_token(llm: LLM) -> int:
    """Of the KV cache, all layers."""
    runner: ModelRunner = llm.llm_engine.executor.runner  # type: ignore[attr-defined]  # one process
    return sum(spec.bytes_per_token for spec in runner.kv_cache_specs())


def seconds_until_ready(model: str) -> float:
    """From the command to the line that says where it listens."""
    start = time.monotonic()
    with LiveServer(["--model", model]):
        return time.monotonic() - start


def plot(by_requests: list[dict[str, Any]], by_context: list[dict[str, Any]]) -> str:
    """Both tables as bars, SVG."""

    def bars(title: str, rows: list[dict[str, Any]], key: str, value: str, digits: str) -> Bars:
        return Bars(title, [Bar(f"{row[key]:,}", row[value], format(row[value], digits)) for row in rows])

    first, second = by_requests[0], by_context[0]
    return draw_bars(
        [
            bars(
                f"µs for a token, by requests of {first['context']:,} tokens",
                by_requests,
                "requests",
                "us_per_token",
                ",.0f",
            ),
            bars(
                f"ms of a step of {second['requests']} requests, by context",
                by_context,
                "context",
                "ms_per_step",
                ",.1f",
            ),
        ]
    ).to_svg()


def _load(model: str, cells: list[tuple[int, int]], num_steps: int) -> LLM:
    """The model with room for every cell, one after the other."""
    lengths = [(n, context + output_len(n, context, num_steps) + 4) for n, context in cells]
    longest = max(length for _, length in lengths)
    blocks = max(n * -(-length // BLOCK_SIZE) for n, length in lengths)
    return LLM(
        model,
        hf_overrides={"max_position_embeddings": longest},
        max_model_len=longest,
        block_size=BLOCK_SIZE,
        num_gpu_blocks_override=blocks + 1,
        max_num_seqs=max(n for n, _ in cells),
        max_num_batched_tokens=max(BUDGET, *(n for n, _ in cells)),
        enable_prefix_caching=False,
    )


@contextmanager
def without_model(runner: ModelRunner) -> Iterator[None]:
    """Steps compute nothing: every hidden state is zero."""

    def zeros(x: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.zeros_like(x)

    runner.model.forward = zeros  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del runner.model.forward


def _timed_step(llm: LLM, runner: ModelRunner) -> tuple[float, float]:
    """Seconds of a step, and those of them that its layers took."""
    forward, inside = runner.model.forward, 0.0

    def timed(*args: Any) -> torch.Tensor:
        nonlocal inside
        start = time.perf_counter()
        hidden = forward(*args)
        inside = time.perf_counter() - start
        return hidden

    runner.model.forward = timed  # type: ignore[method-assign,assignment]
    start = time.perf_counter()
    llm.llm_engine.step()
    total = time.perf_counter() - start
    del runner.model.forward
    return total, inside
