"""Many requests over one long prefix, all at once: prompt tokens computed, and time, with and without prefix cache."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from minivllm.bench.workload import shared_prefix
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

VOCAB = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench prefix-caching`."""
    parser.add_argument("--model", default="tutor", help="(default: tutor)")
    parser.add_argument("--num-requests", type=int, default=100, help="(default: 100)")
    parser.add_argument("--shared", type=int, default=512, help="tokens of the common prefix (default: 512)")
    parser.add_argument("--own", type=int, default=16, help="further tokens of each prompt (default: 16)")
    parser.add_argument("--output", type=int, default=16, help="tokens to generate (default: 16)")
    parser.add_argument("--repetitions", type=int, default=3, help="(default: 3)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The two engines in turns, on new tokens in each round."""
    engines = {on: LLM(args.model, enable_prefix_caching=on) for on in (True, False)}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    computed: dict[bool, int] = {}
    for repetition in range(args.repetitions):
        for on in (True, False) if repetition % 2 == 0 else (False, True):
            elapsed, computed[on] = _once(engines[on], args, repetition)
            seconds[on].append(elapsed)
    expected = args.shared // 16 * 16 + args.num_requests * (args.own + args.shared % 16)
    speedup = statistics.median(off / on for on, off in zip(seconds[True], seconds[False], strict=True))
    print(
        f"prompt tokens computed: {computed[True]} with the cache (expected {expected}), {computed[False]} without"
    )
    print(f"wall-clock time without / with: {speedup:.2f}")
    return {
        "num_requests": args.num_requests,
        "prompt_tokens_computed": {"with": computed[True], "expected": expected, "without": computed[False]},
        "speedup": speedup,
        "seconds": {"with": seconds[True], "without": seconds[False]},
    }


def _once(llm: LLM, args: argparse.Namespace, repetition: int) -> tuple[float, int]:
    requests = shared_prefix(
        args.num_requests, VOCAB, repetition, shared=args.shared, own=args.own, output=args.output
    )
    before = llm.llm_engine.stats()
    params = SamplingParams(temperature=0, max_tokens=args.output, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    llm.generate([r.prompt_token_ids for r in requests], params, use_tqdm=False)
    elapsed = time.perf_counter() - start
    hits = llm.llm_engine.stats().prefix_cache_hits - before.prefix_cache_hits
    return elapsed, sum(len(r.prompt_token_ids) for r in requests) - hits
