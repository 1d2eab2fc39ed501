"""Blocks that the choices of one prompt, and the beams of a search, take at their peak, shared and unshared."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from typing import Any

from minivllm.llm import LLM
from minivllm.sampling_params import BeamSearchParams, SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench sharing`."""
    parser.add_argument("--model", default="tutor", help="(default: tutor)")
    parser.add_argument("--prompt-len", type=int, default=250, help="tokens (default: 250)")
    parser.add_argument("--output", type=int, default=64, help="tokens (default: 64)")
    parser.add_argument("--width", type=int, default=8, help="choices, and beams (default: 8)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Parallel sampling, then beam search."""
    rng = random.Random("sharing")
    prompt = [rng.randrange(256) for _ in range(args.prompt_len)]
    sampling = SamplingParams(n=args.width, seed=1, max_tokens=args.output, ignore_eos=True)
    beams = BeamSearchParams(beam_width=args.width, max_tokens=args.output, ignore_eos=True)
    calls: dict[str, Callable[[LLM], Any]] = {
        f"n = {args.width}": lambda llm: llm.llm_engine.add_request("a", prompt, sampling),
        f"beam search, width {args.width}": lambda llm: llm.llm_engine.add_request("a", prompt, beams),
    }
    rows = [
        {"kind": kind, **_peak(LLM(args.model, enable_prefix_caching=False), add)}
        for kind, add in calls.items()
    ]
    for row in rows:
        print(
            f"{row['kind']}: {row['blocks']} blocks at the peak, {row['unshared']} unshared ({row['saved']:.0%} saved)"
        )
    return {"prompt_len": args.prompt_len, "output": args.output, "rows": rows}


def _peak(llm: LLM, add: Callable[[LLM], Any]) -> dict[str, Any]:
    """At the step that holds most blocks: how many, and how many if each holder of a shared one had its own."""
    engine = llm.llm_engine
    add(llm)
    peak, unshared = 0, 0
    while engine.has_unfinished_requests():
        engine.step()
        pool = engine.kv_cache_manager.pool
        used = pool.num_blocks - 1 - pool.num_free_blocks
        if used > peak:
            peak, unshared = used, sum(len(table) for table in engine.kv_cache_manager.tables().values())
    return {"blocks": peak, "unshared": unshared, "saved": 1 - peak / unshared}
