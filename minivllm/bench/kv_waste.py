"""KV memory that is allocated and holds nothing, over the steps of a live engine, beside contiguous reservation.

Waste = slots of live requests that no token has been written to / slots allocated to them. Contiguous reservation
gives each request the model's full length when it starts, as servers did before paging. The lengths are log-normal
with given means: ShareGPT's (161 in, 338 out) as published in the PagedAttention paper, section 6.1, or short chats
(16-256 in, 8-128 out, log-uniform).
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Any

from minivllm.bench.workload import BenchRequest, mixed
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

VOCAB = 256


@dataclass
class Slots:
    """Sums over steps."""

    written: int = 0
    paged: int = 0
    contiguous: int = 0

    def waste(self, allocated: int) -> float:
        return 1 - self.written / allocated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench kv-waste`."""
    parser.add_argument("--model", default="tutor", help="(default: tutor)")
    parser.add_argument("--num-requests", type=int, default=96, help="of each kind (default: 96)")
    parser.add_argument("--block-size", type=int, default=16, help="(default: 16)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Both kinds of lengths, one engine each."""
    kinds = {
        "lengths with means 161 in, 338 out": log_normal(args.num_requests, 161, 338),
        "short chats, 16-256 in, 8-128 out": mixed(args.num_requests, VOCAB),
    }
    rows = [{"kind": kind, **measure(args, requests)} for kind, requests in kinds.items()]
    for row in rows:
        print(
            f"{row['kind']}: paged {row['paged_waste']:.2%} (formula {row['formula']:.2%}), "
            f"contiguous reservation {row['contiguous_waste']:.1%}"
        )
    return {"block_size": args.block_size, "rows": rows}


def measure(args: argparse.Namespace, requests: list[BenchRequest]) -> dict[str, Any]:
    """Run the requests and look at the block tables after every step."""
    llm = LLM(args.model, block_size=args.block_size, enable_prefix_caching=False, max_num_seqs=64)
    engine = llm.llm_engine
    for i, request in enumerate(requests):
        params = SamplingParams(
            temperature=0, max_tokens=request.output_len, ignore_eos=True, detokenize=False
        )
        engine.add_request(str(i), request.prompt_token_ids, params)
    slots, num_request_steps = Slots(), 0
    while engine.has_unfinished_requests():
        engine.step()
        tables = engine.kv_cache_manager.tables()
        for live in engine.scheduler.running:
            slots.written += live.num_computed_tokens
            slots.paged += tables[live.request_id].capacity
            slots.contiguous += engine.max_model_len
            num_request_steps += 1
    mean_length = slots.written / num_request_steps
    half_block = (args.block_size - 1) / 2
    return {
        "requests": len(requests),
        "mean_live_length": round(mean_length, 1),
        "paged_waste": slots.waste(slots.paged),
        "formula": half_block / (mean_length + half_block),
        "contiguous_waste": slots.waste(slots.contiguous),
    }


def log_normal(
    count: int, mean_in: int, mean_out: int, sigma: float = 0.8, most: int = 1000
) -> list[BenchRequest]:
    """Requests with log-normal lengths, rescaled so that the means are met."""
    rng = random.Random("log-normal lengths")

    def lengths(mean: int) -> list[int]:
        drawn = [min(most / mean, rng.lognormvariate(0, sigma)) for _ in range(count)]
        return [max(1, min(most, round(mean * x * count / sum(drawn)))) for x in drawn]

    return [
        BenchRequest([rng.randrange(VOCAB) for _ in range(size_in)], size_out)
        for size_in, size_out in zip(lengths(mean_in), lengths(mean_out), strict=True)
    ]
