"""What the command line accepts: the parser, and the argument types that answer a mistake with a sentence."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from minivllm.sim.cost import KV_CAPACITY, CostModel
from minivllm.sim.policies import DESCRIPTIONS, POLICIES
from minivllm.sim.schedule import BATCHINGS
from minivllm.sim.trace import DATASETS, MAX_REQUESTS, SHAPES

DEFAULT_POLICIES = ("max", "pow2", "oracle", "buddy", "paged")
PREFILLS = ("chunked", "whole")

_MEMORY_EPILOG = (
    "policies:\n"
    + "\n".join(f"  {name:17} {text}" for name, text in DESCRIPTIONS.items())
    + """

examples:
  python -m minivllm.sim memory                                   the paper's figure 2, in shape
  python -m minivllm.sim memory --dataset short-chats --policy max paged --plot waste.png
  python -m minivllm.sim memory --policy paged --block-size 64
"""
)

_SCHEDULE_EPILOG = """A step takes a + b * tokens + c * context tokens read. The defaults are arithmetic for OPT-13B on an A100, see
minivllm/sim/cost.py.

examples:
  python -m minivllm.sim schedule                                 static against continuous batching
  python -m minivllm.sim schedule --policy continuous --prefill whole chunked --dataset long-prompts --rate 4 \\
      --max-num-batched-tokens 256                                what a long prompt does to everybody else
  python -m minivllm.sim schedule --num-requests 5 --max-num-seqs 4 --log
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m minivllm.sim`."""
    parser = argparse.ArgumentParser(
        prog="python -m minivllm.sim",
        description="Simulate memory policies or schedulers over a request trace, without a model.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{memory,schedule}")
    raw = argparse.RawDescriptionHelpFormatter
    memory = commands.add_parser(
        "memory", help="what memory policies waste", epilog=_MEMORY_EPILOG, formatter_class=raw,
        description="Play one trace against memory policies, and say where every slot of the KV cache went.",
    )  # fmt: skip
    schedule = commands.add_parser(
        "schedule", help="what schedulers make requests wait for", epilog=_SCHEDULE_EPILOG, formatter_class=raw,
        description="Play one trace through the engine's scheduler, with a cost model in the model's place.",
    )  # fmt: skip
    for command, num_requests in ((memory, 300), (schedule, 100)):
        _add_trace_options(command, num_requests)
        _add_machine_options(command)
        _add_output_options(command)
    _add_memory_options(memory)
    _add_schedule_options(schedule)
    return parser


def _add_trace_options(parser: argparse.ArgumentParser, num_requests: int) -> None:
    group = parser.add_argument_group("the trace")
    group.add_argument("--trace", metavar="FILE", help="read it from JSON instead of drawing it")
    group.add_argument(
        "--dataset", choices=DATASETS, default="sharegpt", help="whose lengths to draw (default: sharegpt)"
    )
    group.add_argument(
        "--num-requests",
        type=integer(1, MAX_REQUESTS),
        default=num_requests,
        metavar="N",
        help="(default: %(default)s)",
    )
    group.add_argument(
        "--rate", type=number(0, low_open=True, infinite=True), default=math.inf, metavar="R",
        help="Poisson arrivals per second; inf = all wait from the start (default: inf)",
    )  # fmt: skip
    group.add_argument(
        "--shape",
        choices=SHAPES,
        default="exponential",
        help="distribution of lengths (default: exponential)",
    )
    group.add_argument("--seed", type=integer(0), default=0, metavar="S", help="(default: 0)")
    group.add_argument("--save-trace", metavar="FILE", help="write the trace as JSON")


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    group.add_argument(
        "--capacity", type=integer(1), default=KV_CAPACITY, metavar="TOKENS",
        help="slots of the KV cache (default: %(default)s, the paper's OPT-13B on an A100)",
    )  # fmt: skip
    group.add_argument(
        "--block-size", type=integer(1), default=16, metavar="B", help="tokens per block (default: 16)"
    )
    group.add_argument(
        "--max-model-len",
        type=integer(2),
        default=2048,
        metavar="L",
        help="prompt + answer of a request (default: 2048)",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the outcome (a table on stdout, always)")
    group.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    group.add_argument("--plot", metavar="FILE.png", help="draw it (needs matplotlib)")


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", nargs="+", choices=POLICIES, default=list(DEFAULT_POLICIES), metavar="NAME",
        help=f"one or more of: {', '.join(POLICIES)} (default: {' '.join(DEFAULT_POLICIES)})",
    )  # fmt: skip
    parser.add_argument(
        "--step-time", type=number(0, low_open=True), default=0.05, metavar="SECONDS",
        help="of the trace's clock, per step; only matters with --rate (default: 0.05)",
    )  # fmt: skip
    parser.add_argument(
        "--max-num-seqs", type=integer(1), metavar="N", help="requests at a time (default: no limit)"
    )


def _add_schedule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", nargs="+", choices=BATCHINGS, default=list(BATCHINGS), metavar="NAME",
        help="static, continuous or both (default: both)",
    )  # fmt: skip
    parser.add_argument(
        "--prefill", nargs="+", choices=PREFILLS, default=["chunked"], metavar="NAME",
        help="chunked, whole or both (default: chunked); whole needs, and gets, a budget of max-model-len",
    )  # fmt: skip
    parser.add_argument(
        "--max-num-seqs", type=integer(1), default=32, metavar="N", help="requests per step (default: 32)"
    )
    parser.add_argument(
        "--max-num-batched-tokens",
        type=integer(1),
        default=2048,
        metavar="N",
        help="tokens per step (default: 2048)",
    )
    parser.add_argument("--log", action="store_true", help="print who ran in every step, and nothing else")
    default, group = CostModel(), parser.add_argument_group("the cost of a step")
    for flag, value, scale, unit in (
        ("--step-ms", default.per_step, 1e3, "a: milliseconds per step"),
        ("--token-us", default.per_token, 1e6, "b: microseconds per token computed"),
        ("--context-us", default.per_context_token, 1e6, "c: microseconds per context token read"),
    ):
        group.add_argument(
            flag,
            type=number(0),
            default=value * scale,
            metavar="T",
            help=f"{unit} (default: {value * scale:.3g})",
        )


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number in [low, high]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            limits = f"of at least {low}" if high is None else f"in [{low}, {high}]"
            raise argparse.ArgumentTypeError(f"must be an integer {limits}, not {text!r}")
        return value

    return parse


def number(low: float, *, low_open: bool = False, infinite: bool = False) -> Callable[[str], float]:
    """An argparse type: a number from `low` on (above it, if `low_open`), finite unless `infinite`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        is_inside = value > low if low_open else value >= low
        if not is_inside or (math.isinf(value) and not infinite):
            kind = "a number" if infinite else "a finite number"
            raise argparse.ArgumentTypeError(
                f"must be {kind} {'above' if low_open else 'of at least'} {low:g}, not {text!r}"
            )
        return value

    return parse
