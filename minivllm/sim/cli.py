"""`python -m minivllm.sim memory|schedule`: a trace, some policies, a table; JSON and a picture if asked for."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

from minivllm.sim.arguments import build_parser
from minivllm.sim.cost import KV_CAPACITY, CostModel
from minivllm.sim.memory_report import MemoryResult, run_memory
from minivllm.sim.plot_memory import plot_memory, wants_layout
from minivllm.sim.plot_schedule import plot_schedule
from minivllm.sim.policies import make_policy
from minivllm.sim.policies.base import MemoryPolicy
from minivllm.sim.schedule import simulate_schedule
from minivllm.sim.schedule_config import ScheduleConfig
from minivllm.sim.schedule_report import round_log, schedule_json, summarize_schedule
from minivllm.sim.tables import describe, memory_text, schedule_table
from minivllm.sim.trace import Trace, dataset_trace

EXIT_OK, EXIT_USAGE = 0, 2
PLOT_ENDINGS = (".png", ".svg", ".pdf")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, or 2 after one sentence on stderr."""
    options = build_parser().parse_args(argv)
    try:
        if options.plot:
            _check_can_plot(options.plot)
        trace = _trace(options)
        if options.save_trace:
            trace.save(options.save_trace)
        run = _run_memory if options.command == "memory" else _run_schedule
        run(options, trace)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads our output (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"python -m minivllm.sim: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


def _trace(options: argparse.Namespace) -> Trace:
    if options.trace:
        return Trace.load(options.trace)
    return dataset_trace(
        options.dataset,
        options.num_requests,
        shape=options.shape,
        rate=options.rate,
        seed=options.seed,
        max_model_len=options.max_model_len,
    )


def _write_json(path: str, content: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, allow_nan=False)
        file.write("\n")


def _run_memory(options: argparse.Namespace, trace: Trace) -> None:
    size, length = options.block_size, options.max_model_len
    names = dict.fromkeys(options.policy)  # each once, in the order they were named
    policies = [make_policy(name, options.capacity, block_size=size, max_model_len=length) for name in names]
    results = [_memory_result(policy, options, trace) for policy in policies]
    summaries = [result.summary for result in results]
    is_the_papers = trace.name == "sharegpt" and options.capacity == KV_CAPACITY
    print(memory_text(trace, summaries, options.block_size, with_paper=is_the_papers))
    if options.json:
        content = {"trace": trace.to_json(), "results": [result.to_json() for result in results]}
        _write_json(options.json, content)
    if options.plot:
        title = f"KV cache of {options.capacity:,} tokens\n{describe(trace)}"
        plot_memory(results, options.plot, title, with_paper=is_the_papers)


def _memory_result(policy: MemoryPolicy, options: argparse.Namespace, trace: Trace) -> MemoryResult:
    return run_memory(
        trace,
        policy,
        step_time=options.step_time,
        max_num_seqs=options.max_num_seqs,
        keep_layout=wants_layout if options.plot else None,
    )


def _run_schedule(options: argparse.Namespace, trace: Trace) -> None:
    results = [simulate_schedule(trace, config) for config in _schedule_configs(options)]
    if options.log:
        print("\n\n".join(f"{result.config.label}\n{round_log(result)}" for result in results))
    else:
        print(f"{describe(trace)}\n\n{schedule_table([summarize_schedule(result) for result in results])}")
    if options.json:
        content = {"trace": trace.to_json(), "results": [schedule_json(result) for result in results]}
        _write_json(options.json, content)
    if options.plot:
        plot_schedule(results, options.plot, describe(trace))


def _schedule_configs(options: argparse.Namespace) -> list[ScheduleConfig]:
    cost = CostModel(options.step_ms / 1e3, options.token_us / 1e6, options.context_us / 1e6)
    configs: dict[str, ScheduleConfig] = {}  # by label: static batching has no prefill to choose
    for batching, prefill, caching in product(options.policy, options.prefill, options.prefix_caching):
        budget = options.max_num_batched_tokens
        config = ScheduleConfig(
            batching=batching,
            enable_chunked_prefill=prefill == "chunked" or batching == "static",
            enable_prefix_caching=caching == "on",
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=max(budget, options.max_model_len) if prefill == "whole" else budget,
            max_model_len=options.max_model_len,
            capacity=options.capacity,
            block_size=options.block_size,
            cost=cost,
        )
        configs.setdefault(config.label, config)
    return list(configs.values())


def _check_can_plot(path: str) -> None:
    """Before the work, not after it. Raises ValueError if there is nothing to draw with, or not that way."""
    if not path.endswith(PLOT_ENDINGS):
        raise ValueError(f"--plot must end in {' or '.join(PLOT_ENDINGS)}, not {path!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError('--plot needs matplotlib: pip install "minivllm[lab]", or leave --plot out')
