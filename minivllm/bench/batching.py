"""Continuous against static batching: the same engine and requests, in turns; steps and output tokens per second."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from minivllm.bench import workload
from minivllm.bench.workload import BenchRequest
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

VOCAB = 256
WAYS = {"continuous": False, "static": True}  # name -> enable_static_batching


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench batching`."""
    parser.add_argument("--model", default="tutor", help="(default: tutor)")
    parser.add_argument("--num-requests", type=int, default=64, help="all submitted at once (default: 64)")
    parser.add_argument("--max-num-seqs", type=int, default=8, help="seats, for both (default: 8)")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds, in turns (default: 5)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Two engines that differ in one field. The fastest round of each counts: others may have shared the processor."""
    engines = {
        name: LLM(args.model, enable_static_batching=is_static, max_num_seqs=args.max_num_seqs)
        for name, is_static in WAYS.items()
    }
    for llm in engines.values():
        play(llm, workload.mixed(args.max_num_seqs, VOCAB, repetition=-1))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for repetition in range(args.repetitions):
        requests = workload.mixed(args.num_requests, VOCAB, repetition)
        for name in WAYS if repetition % 2 == 0 else reversed(WAYS):
            rows[name].append(play(engines[name], requests))
    num_output_tokens = sum(request.output_len for request in requests)
    result = _summarize(rows, num_output_tokens) | {
        "num_requests": args.num_requests,
        "max_num_seqs": args.max_num_seqs,
        "input_tokens": sum(len(r.prompt_token_ids) for r in requests),
        "output_tokens": num_output_tokens,
    }
    for name, row in result["rows"].items():
        print(
            f"{name:11} {row['steps']:5} steps, {row['seats_in_use']:.1f} requests in a step on average, "
            f"{row['output_tokens_per_second']:7.1f} output tokens/s"
        )
    print(f"continuous batching is {result['ratio']:.2f} times as fast")
    return result


def play(llm: LLM, requests: Sequence[BenchRequest]) -> dict[str, Any]:
    """All requests at once, to the end."""
    engine = llm.llm_engine
    for number, request in enumerate(requests):
        params = SamplingParams(
            temperature=0, max_tokens=request.output_len, ignore_eos=True, detokenize=False
        )
        engine.add_request(str(number), request.prompt_token_ids, params)
    steps, running = 0, 0
    start = time.perf_counter()
    while engine.has_unfinished_requests():
        num_finished = sum(output.finished for output in engine.step())
        steps += 1
        running += len(engine.scheduler.running) + num_finished
    seconds = time.perf_counter() - start
    return {"steps": steps, "running": running / steps, "seconds": seconds}


def _summarize(rows: dict[str, list[dict[str, Any]]], num_tokens: int) -> dict[str, Any]:
    fastest = {name: min(run["seconds"] for run in runs) for name, runs in rows.items()}
    return {
        "rows": {
            name: {
                "steps": runs[0]["steps"],
                "seats_in_use": round(statistics.mean(run["running"] for run in runs), 2),
                "output_tokens_per_second": num_tokens / fastest[name],
                "seconds": [round(run["seconds"], 3) for run in runs],
            }
            for name, runs in rows.items()
        },
        "ratio": fastest["static"] / fastest["continuous"],
    }
