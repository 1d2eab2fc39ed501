"""One model over several processes: bytes on each rank, messages and bytes for each token, seconds of talking."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

# A model of 27 million random weights: large enough that a rank has something to compute between two messages.
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
PLANS = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (4, 1, 1), (2, 2, 1), (1, 1, 2))  # (tensor, pipeline, data)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench parallel`."""
    parser.add_argument("--requests", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--prompt-len", type=int, default=128, help="tokens (default: 128)")
    parser.add_argument("--output", type=int, default=32, help="tokens (default: 32)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (default: 3)")
    parser.add_argument(
        "--device", default="cpu", help="cpu, or cuda with a GPU for each rank (default: cpu)"
    )
    parser.add_argument("--trace", metavar="PATH", help="write every message of every rank there, as JSON")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Each plan in turn, on the same requests."""
    rows = []
    traces = {}
    load = os.getloadavg()[0]  # what else the machine was doing: with much of it, the times mean little
    for plan in PLANS:
        tensor, pipeline, data = plan
        row, traces[f"tp{tensor} pp{pipeline} dp{data}"] = measure(plan, args)
        rows.append(row)
        print(
            f"tp {tensor} pp {pipeline} dp {data}: {row['weight_mib']:6.1f} MiB of weights on the fullest rank, "
            f"{row['messages_per_step']:5.1f} messages and {row['bytes_per_token']:7.0f} bytes per token on a rank, "
            f"{row['seconds']:6.2f} s, {row['tokens_per_second']:5.0f} tokens/s, "
            f"{row['communication_share']:4.0%} of a rank's step spent talking or waiting",
            flush=True,
        )
    if args.trace:
        Path(args.trace).write_text(json.dumps(traces))
    workload = {name: getattr(args, name) for name in ("requests", "prompt_len", "output", "device")}
    return {**workload, "shape": SHAPE, "load_average_before": round(load, 1), "rows": rows}


def measure(
    plan: tuple[int, int, int], args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(figures of one plan: tensor, pipeline and data parallel size; what each rank said)."""
    tensor, pipeline, data = plan
    llm = LLM(
        "tutor",
        hf_overrides=SHAPE,
        load_format="dummy",
        device=args.device,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        data_parallel_size=data,
        kv_cache_memory_bytes=2**28,
        enable_prefix_caching=False,
    )
    try:
        prompts = [[request + 1] * args.prompt_len for request in range(args.requests)]
        params = SamplingParams(temperature=0, max_tokens=args.output, ignore_eos=True)
        llm.generate(prompts[:2], SamplingParams(max_tokens=2), use_tqdm=False)  # warm
        engines = getattr(llm.llm_engine, "replicas", [llm.llm_engine])
        seconds = []
        for _ in range(args.repeats):
            for engine in engines:
                engine.executor.report(clear=True, tracing=args.trace is not None)
            start = time.perf_counter()
            llm.generate(prompts, params, use_tqdm=False)
            seconds.append(time.perf_counter() - start)
        reports = [report for engine in engines for report in engine.executor.report()]  # of the last time
    finally:
        llm.llm_engine.shutdown()
    num_tokens = args.requests * (args.prompt_len + args.output - 1)  # each is computed once
    busiest = max(reports, key=lambda report: sum(report.comm_bytes.values()))
    row = {
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "data_parallel_size": data,
        "seconds": round(min(seconds), 3),
        "seconds_of_all": [round(one, 3) for one in seconds],
        "tokens_per_second": round(args.requests * args.output / min(seconds), 1),
        "steps": busiest.num_steps,
        "weight_mib": round(max(report.parameter_bytes for report in reports) / 2**20, 2),
        "weight_mib_of_ranks": [round(report.parameter_bytes / 2**20, 2) for report in reports],
        "private_mib_of_ranks": [
            report.private_bytes and round(report.private_bytes / 2**20) for report in reports
        ],
        "messages_per_step": sum(busiest.comm_count.values()) / busiest.num_steps,
        "bytes_per_token": sum(busiest.comm_bytes.values()) / num_tokens,
        "comm_bytes": dict(busiest.comm_bytes),
        "step_seconds_of_ranks": [round(report.step_seconds, 3) for report in reports],
        "comm_seconds_of_ranks": [round(sum(report.comm_seconds.values()), 3) for report in reports],
        "communication_share": round(
            sum(sum(report.comm_seconds.values()) for report in reports)
            / sum(report.step_seconds for report in reports),
            3,
        ),
    }
    traces = [
        {"rank": report.rank, "events": [asdict(event) for event in report.events]} for report in reports
    ]
    return row, traces
