"""What the command line accepts: the parser, and the argument types that answer a mistake with a sentence."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from minivllm.sim.cost import KV_CAPACITY, CostModel
from minivllm.sim.policies import DESCRIPTIONS, POLICIES
from minivllm.sim.schedule_config import BATCHINGS
from minivllm.sim.trace import DATASETS, MAX_LEN, MAX_REQUESTS, SHAPES

DEFAULT_POLICIES = ("max", "pow2", "oracle", "buddy", "paged")
DEFAULT_BATCHINGS = ("static", "continuous")
PREFILLS = ("chunked", "whole")
SWITCH = ("off", "on")


def _listed(descriptions: Mapping[str, str]) -> str:
    return "policies:\n" + "\n".join(f"  {name:17} {text}" for name, text in descriptions.items())


_MEMORY_EXAMPLES = """

examples:
  python -m minivllm.sim memory                  the paper's figure 2, in shape
  python -m minivllm.sim memory --dataset short-chats --plot waste.png
  python -m minivllm.sim memory --policy paged --block-size 64
"""

_SCHEDULE_EXAMPLES = """

A step takes a + b * tokens + c * context tokens read. The defaults are
arithmetic for OPT-13B on an A100, see minivllm/sim/cost.py.

examples:
  python -m minivllm.sim schedule                static against continuous
  python -m minivllm.sim schedule --policy continuous --prefill whole chunked \\
      --max-num-batched-tokens 256 --dataset long-prompts --rate 4
                                                 how long prompts stall others
  python -m minivllm.sim schedule --policy continuous --prefix-caching off on \\
      --dataset system-prompt                    a prefix computed once
  python -m minivllm.sim schedule --policy continuous priority \\
      --dataset two-tiers                        what urgency costs the others
  python -m minivllm.sim schedule --num-requests 5 --max-num-seqs 4 --log
"""


class _Arguments(Protocol):
    """What a parser and a group of its arguments have in common."""

    def add_argument(self, *flags: str, **settings: Any) -> Any: ...


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m minivllm.sim`."""
    parser = argparse.ArgumentParser(
        prog="python -m minivllm.sim",
        description="Simulate memory policies or schedulers over a request trace, without a model.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{memory,schedule}")
    memory = commands.add_parser(
        "memory",
        help="what memory policies waste",
        description="Play one trace against memory policies: where did every slot of the cache go?",
        epilog=_listed(DESCRIPTIONS) + _MEMORY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_memory_options(memory)
    _add_common_options(memory, num_requests=300)
    schedule = commands.add_parser(
        "schedule",
        help="what schedulers make requests wait for",
        description="Play one trace through the engine's scheduler, with a cost model as the model.",
        epilog=_listed(BATCHINGS) + _SCHEDULE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_schedule_options(schedule)
    _add_common_options(schedule, num_requests=200)
    return parser


def _add_common_options(parser: argparse.ArgumentParser, num_requests: int) -> None:
    trace = parser.add_argument_group("the trace")
    trace.add_argument("--trace", metavar="FILE", help="read it from JSON instead of drawing it")
    _choice(trace, "--dataset", DATASETS, "sharegpt", "whose lengths to draw")
    _option(trace, "--num-requests", integer(1, MAX_REQUESTS), num_requests, "N", "how many")
    any_rate = number(0, low_open=True, infinite=True)
    _option(
        trace, "--rate", any_rate, math.inf, "R", "Poisson arrivals per second; inf = all wait from the start"
    )
    _choice(trace, "--shape", SHAPES, "exponential", "distribution of the lengths")
    _option(trace, "--seed", integer(0), 0, "S", "of everything that is drawn")
    trace.add_argument("--save-trace", metavar="FILE", help="write the trace as JSON")

    machine = parser.add_argument_group("the machine")
    size = integer(1, MAX_LEN)
    _option(
        machine,
        "--capacity",
        size,
        KV_CAPACITY,
        "N",
        "token slots of the KV cache; the paper's OPT-13B on an A100",
    )
    _option(machine, "--block-size", size, 16, "B", "tokens per block")
    _option(
        machine,
        "--max-model-len",
        integer(2, MAX_LEN),
        2048,
        "L",
        "prompt + answer of one request, in tokens",
    )

    outcome = parser.add_argument_group("the outcome, besides the table on stdout")
    outcome.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    outcome.add_argument("--plot", metavar="FILE.png", help="draw it (.png, .svg or .pdf; needs matplotlib)")


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    _choices(parser, "--policy", POLICIES, DEFAULT_POLICIES)
    clock = "seconds of the trace's clock per step; only matters with --rate"
    _option(parser, "--step-time", number(0, low_open=True), 0.05, "T", clock)
    parser.add_argument(
        "--max-num-seqs", type=integer(1), metavar="N", help="requests at a time (default: no limit)"
    )


def _add_schedule_options(parser: argparse.ArgumentParser) -> None:
    _choices(parser, "--policy", tuple(BATCHINGS), DEFAULT_BATCHINGS)
    _choices(
        parser, "--prefill", PREFILLS, PREFILLS[:1], "; whole needs, and gets, a budget of max-model-len"
    )
    _choices(parser, "--prefix-caching", SWITCH, SWITCH[:1])
    _option(parser, "--max-num-seqs", integer(1), 32, "N", "requests per step")
    _option(parser, "--max-num-batched-tokens", integer(1), 2048, "N", "tokens per step")
    parser.add_argument("--log", action="store_true", help="print who ran in every step instead of the table")
    default, cost = CostModel(), parser.add_argument_group("the cost of a step")
    _option(cost, "--step-ms", number(0), round(default.per_step * 1e3, 3), "A", "milliseconds per step")
    _option(
        cost,
        "--token-us",
        number(0),
        round(default.per_token * 1e6, 3),
        "B",
        "microseconds per token computed",
    )
    context = "microseconds per token of context read"
    _option(cost, "--context-us", number(0), round(default.per_context_token * 1e6, 3), "C", context)


def _option(
    group: _Arguments, flag: str, kind: Callable[[str], object], default: object, metavar: str, text: str
) -> None:
    group.add_argument(
        flag, type=kind, default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
    )


def _choice(group: _Arguments, flag: str, choices: tuple[str, ...], default: str, text: str) -> None:
    text = f"{text}: {', '.join(choices)} (default: {default})"
    group.add_argument(flag, choices=choices, default=default, metavar="NAME", help=text)


def _choices(
    group: _Arguments, flag: str, choices: tuple[str, ...], default: tuple[str, ...], more: str = ""
) -> None:
    text = f"one or more of: {', '.join(choices)} (default: {' '.join(default)}){more}"
    group.add_argument(flag, nargs="+", choices=choices, default=list(default), metavar="NAME", help=text)


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number in [low, high]."""
    limits = f"of at least {low}" if high is None else f"in [{low}, {high}]"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be an integer {limits}, not {text!r}")
        return value

    return parse


def number(low: float, *, low_open: bool = False, infinite: bool = False) -> Callable[[str], float]:
    """An argparse type: a number from `low` on (above it, if `low_open`), finite unless `infinite`."""
    kind = f"{'a' if infinite else 'a finite'} number {'above' if low_open else 'of at least'} {low:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        is_inside = value > low if low_open else value >= low  # a NaN is neither
        if not is_inside or (math.isinf(value) and not infinite):
            raise argparse.ArgumentTypeError(f"must be {kind}, not {text!r}")
        return value

    return parse
