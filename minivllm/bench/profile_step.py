"""One engine step under torch.profiler: is it bound by arithmetic, by memory, or by neither?

A prompt and two batches of decoding run through a model of random weights. Operations come from the profiler, bytes are
those of the weights, each read once, and both are held against what this machine does at its best in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from minivllm.engine import LLMEngine
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

SHAPE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
}
NUM_OPERATORS, TIMED_STEPS = 5, 4
CALM = 0.4  # a step below this share of both limits is bound by neither


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench profile`."""
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (default: 512)")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 16], help="of decoding (default: 1 16)"
    )
    parser.add_argument("--tiny", action="store_true", help="profile the shipped model instead")
    parser.add_argument("--note", help="what else the machine did, for the result")
    parser.add_argument("--trace", metavar="PATH", help="also write the prompt's step for chrome://tracing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Profile, and print a table for each step."""
    options: dict[str, Any] = {} if args.tiny else {"load_format": "dummy", "hf_overrides": SHAPE}
    options["attention_backend"] = "torch"  # the profiler sees into torch's operations, and into no others
    llm = LLM("tutor", enable_prefix_caching=False, max_num_batched_tokens=2048, **options)
    runner = llm.llm_engine.executor.runner  # type: ignore[attr-defined]  # one process
    num_bytes = sum(weight.numel() * weight.element_size() for weight in runner.model.parameters())
    limits = {"gflops": machine_gflops(), "gigabytes": machine_gigabytes()}
    print(f"this machine: {limits['gflops']:.0f} GFLOP/s, {limits['gigabytes']:.1f} GB/s read")
    rows = []
    for kind, num_requests, length in [
        ("prompt", 1, args.prompt),
        *((f"decode, batch of {size}", size, 16) for size in args.batch_sizes),
    ]:
        profiler, seconds = _step(llm.llm_engine, num_requests, length, kind == "prompt")
        num_tokens = length if kind == "prompt" else num_requests
        rows.append(_show(summary(kind, num_tokens, profiler, seconds, num_bytes, limits)))
        if args.trace and kind == "prompt":
            profiler.export_chrome_trace(args.trace)
    result = {"weights_megabytes": num_bytes / 1e6, "machine": limits, "rows": rows}
    return {"note": args.note, **result} if args.note else result


def _step(engine: LLMEngine, num_requests: int, length: int, is_prompt: bool) -> tuple[profile, float]:
    """The best of a few steps without the profiler, in seconds, and one more step under it, which slows it."""
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)

    def ready(name: str) -> None:
        for number in range(num_requests):
            engine.add_request(f"{name}-{number}", [3 + number] * length, params)
        if not is_prompt:
            engine.step()  # the prompts
            engine.step()

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])

    def again(name: str) -> float:
        ready(name)
        start = time.perf_counter()
        engine.step()
        seconds = time.perf_counter() - start
        engine.abort_request([f"{name}-{number}" for number in range(num_requests)])
        return seconds

    seconds = min(again(f"timed-{number}") for number in range(TIMED_STEPS))
    ready("profiled")
    with profile(activities=activities, with_flops=True) as profiler:
        engine.step()
    engine.abort_request([f"profiled-{number}" for number in range(num_requests)])
    return profiler, seconds


def summary(
    kind: str, num_tokens: int, profiler: Any, seconds: float, num_bytes: int, limits: dict[str, float]
) -> dict[str, Any]:
    """What one step did, and which limit it is near."""
    events = profiler.key_averages()
    flops = sum(event.flops for event in events)
    total = sum(event.self_cpu_time_total for event in events)
    slowest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:NUM_OPERATORS]
    of_compute = flops / seconds / 1e9 / limits["gflops"]
    of_memory = num_bytes / seconds / 1e9 / limits["gigabytes"]
    return {
        "kind": kind,
        "tokens": num_tokens,
        "milliseconds": 1000 * seconds,
        "flops_per_byte": flops / num_bytes,
        "share_of_compute": of_compute,
        "share_of_memory": of_memory,
        "bound_by": verdict(of_compute, of_memory),
        "operators": [
            {"name": e.key, "calls": e.count, "share": e.self_cpu_time_total / total} for e in slowest
        ],
    }


def verdict(of_compute: float, of_memory: float) -> str:
    """Which limit a step is nearest to; neither if it is far from both."""
    if max(of_compute, of_memory) < CALM:
        return "neither of them alone"
    return "arithmetic" if of_compute >= of_memory else "memory"


def machine_gflops() -> float:
    """The best of a few large matrix products."""
    x = torch.randn(1024, 1024)
    return 2 * 1024**3 / _best(lambda: x @ x) / 1e9


def machine_gigabytes() -> float:
    """The best of a few passes over memory that no cache holds."""
    x = torch.ones(64 * 1024 * 1024)
    return x.numel() * 4 / _best(x.sum) / 1e9


def _best(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _show(row: dict[str, Any]) -> dict[str, Any]:
    print(
        f"\n{row['kind']}: {row['tokens']} tokens, {row['milliseconds']:.1f} ms, {row['flops_per_byte']:.1f} "
        f"operations per byte, {row['share_of_compute']:.0%} of the arithmetic, "
        f"{row['share_of_memory']:.0%} of the memory: bound by {row['bound_by']}"
    )
    for operator in row["operators"]:
        print(f"  {operator['share']:6.1%}  {operator['calls']:5} calls  {operator['name']}")
    return row
