"""What the X-ray costs: steps per second with it off, on without a viewer, and on with one, in alternating rounds.

Two servers run, one of them with --disable-xray. Every round sends the same number of new requests to each, in another
order than the round before; the ratios are taken round by round, as the machine's speed drifts. The processor time of
a step is what can be trusted on a machine that does other things, too.
"""

from __future__ import annotations

import argparse
import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from tqdm import tqdm

from minivllm.bench.live_server import LiveServer, get, wait_until_idle
from minivllm.bench.serve_client import Target, run_all
from minivllm.bench.serve_workload import random_requests

OFF, ON, WATCHED = "off", "on, nobody watches", "on, one viewer"
CONDITIONS = (OFF, ON, WATCHED)
_CPU = re.compile(rb"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
_STEPS = re.compile(rb"^vllm:iteration_tokens_total_count\{[^}]*\} (\S+)$", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench xray-cost`."""
    parser.add_argument("--model", default="tutor", help="(default: tutor)")
    parser.add_argument("--num-prompts", type=int, default=32, help="at a time (default: 32)")
    parser.add_argument("--input-len", type=int, default=64, help="tokens (default: 64)")
    parser.add_argument("--output-len", type=int, default=128, help="tokens (default: 128)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: 9)")
    parser.add_argument("--disable-tqdm", action="store_true", help="no progress bar")
    parser.add_argument("--note", help="about the machine, such as what else it does; kept in the result")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and return the figures.

    Raises:
        SystemExit: an argument is out of range, or a server does not start; with one sentence.
    """
    for name in ("num_prompts", "input_len", "output_len", "rounds"):
        if getattr(args, name) < 1:
            raise SystemExit(
                f"minivllm.bench xray-cost: {name} must be at least 1, not {getattr(args, name)}"
            )
    flags = (args.model, "--log-level", "warning", "--uvicorn-log-level", "info")
    try:
        with LiveServer([*flags, "--disable-xray"]) as plain, LiveServer(flags) as with_xray:
            targets = {OFF: plain, ON: with_xray, WATCHED: with_xray}
            rounds = measure({name: Target(url, args.model) for name, url in targets.items()}, args)
    except ValueError as error:
        raise SystemExit(f"minivllm.bench xray-cost: {error}") from error
    result = summarize(rounds)
    print(describe(result))
    names = ("model", "num_prompts", "input_len", "output_len", "rounds", "note")
    return {**{name: getattr(args, name) for name in names}, **result}


class Run(NamedTuple):
    """One condition in one round."""

    steps: int
    seconds: float
    cpu_seconds: float  # of the server's process, all threads; other programs on the machine do not count

    @property
    def steps_per_second(self) -> float:
        """By the clock."""
        return self.steps / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of one step, in microseconds: the engine's, and the server's that tells clients of it."""
        return 1e6 * self.cpu_seconds / self.steps


def measure(targets: dict[str, Target], args: argparse.Namespace) -> list[dict[str, Run]]:
    """Every condition, for each round; one more round before them warms up."""
    rounds: list[dict[str, Run]] = []
    for index in tqdm(range(-1, args.rounds), desc="rounds", disable=args.disable_tqdm, dynamic_ncols=True):
        order = CONDITIONS if index % 2 == 0 else CONDITIONS[::-1]
        found = {name: _once(targets[name], args, name == WATCHED, seed=index) for name in order}
        rounds += [found] if index >= 0 else []
    return rounds


def _once(target: Target, args: argparse.Namespace, is_watched: bool, seed: int) -> Run:
    # new tokens in every condition, too: what another one has left in the prefix cache must not be found
    requests = random_requests(
        args.num_prompts, args.input_len, args.output_len, 0.0, 1000, seed=2 * seed + is_watched
    )
    with viewer(target) if is_watched else nullcontext():
        wait_until_idle(target, 30.0)
        steps, cpu_seconds = counters(target)
        timings, seconds = run_all(
            target, requests, request_rate=float("inf"), max_concurrency=None, seed=0, show_progress=False
        )
        steps_after, cpu_after = counters(target)
    if errors := [timing.error for timing in timings if timing.error]:
        raise ValueError(f"a request failed: {errors[0]}")
    return Run(steps_after - steps, seconds, cpu_after - cpu_seconds)


def counters(target: Target) -> tuple[int, float]:
    """(steps, processor seconds) of a server since it was started.

    Raises:
        ValueError: the server does not tell.
    """
    told = get(target, "/metrics")[1]
    steps, cpu = _STEPS.search(told), _CPU.search(told)
    if steps is None or cpu is None:
        raise ValueError(f"{target.base_url} does not count its steps and processor seconds in /metrics")
    return int(float(steps[1])), float(cpu[1])


@contextmanager
def viewer(target: Target) -> Iterator[list[int]]:
    """Reads the X-ray's stream in a thread, as the page does; yields a list with the number of bytes read.

    Raises:
        ValueError: the stream ended while it was watched, or brought nothing.
    """
    connection = target.connect()
    connection.request("GET", target.path("/xray"), headers=target.headers)
    response = connection.getresponse()
    num_bytes, stop = [0], threading.Event()

    def read() -> None:
        while not stop.is_set() and (line := response.readline()):
            num_bytes[0] += len(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not num_bytes[0] and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield num_bytes
        if not num_bytes[0] or not thread.is_alive():
            raise ValueError(f"the X-ray of {target.base_url} ended while it was watched")
    finally:
        stop.set()
        if connection.sock is not None:
            connection.sock.settimeout(0.01)
        thread.join(15)
        connection.close()


def summarize(rounds: list[dict[str, Run]]) -> dict[str, Any]:
    """Medians and spreads of steps per second and of processor time per step, each against OFF, round by round."""
    rows: dict[str, dict[str, Any]] = {}
    for name in CONDITIONS:
        speeds = [found[name].steps_per_second for found in rounds]
        ratios = [found[name].steps_per_second / found[OFF].steps_per_second for found in rounds]
        extra = [found[name].cpu_us - found[OFF].cpu_us for found in rounds]
        rows[name] = {
            "steps": sum(found[name].steps for found in rounds),
            "steps_per_second": statistics.median(speeds),
            "min": min(speeds),
            "max": max(speeds),
            "ratio_to_off": statistics.median(ratios),
            "min_ratio": min(ratios),
            "max_ratio": max(ratios),
            "cpu_us_per_step": statistics.median(found[name].cpu_us for found in rounds),
            "extra_cpu_us_per_step": statistics.median(extra),
            "min_extra_cpu_us": min(extra),
            "max_extra_cpu_us": max(extra),
        }
    return {"conditions": rows}


def describe(result: dict[str, Any]) -> str:
    """A line for each condition."""
    head = f"{'X-ray':22}{'steps/s':>10}{'ratio to off':>14}{'(min - max)':>16}"
    lines = [f"{head}{'CPU us/step':>14}{'more than off':>16}{'(min - max)':>18}"]
    for name, row in result["conditions"].items():
        ratios = f"({row['min_ratio']:.2f} - {row['max_ratio']:.2f})"
        extra = f"({row['min_extra_cpu_us']:.0f} - {row['max_extra_cpu_us']:.0f})"
        lines.append(
            f"{name:22}{row['steps_per_second']:10.1f}{row['ratio_to_off']:14.3f}{ratios:>16}"
            f"{row['cpu_us_per_step']:14.0f}{row['extra_cpu_us_per_step']:16.0f}{extra:>18}"
        )
    return "\n".join(lines)
