"""Mixed load on a server for a long time: no block may leak, no answer change, latency and memory must stay flat.

Every minute the load pauses until the server is idle; then every block has to be free again, and one request is timed
alone, beside a fixed computation that shows how fast the machine is at that moment. Without --base-url a server is
started, with few enough blocks that requests are preempted.
"""

from __future__ import annotations

import argparse
import os
import random
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from minivllm.bench.live_server import LiveServer, ServerState, read_state, wait_until_idle
from minivllm.bench.serve_client import Target, ask, first_model
from minivllm.bench.serve_report import percentile_of
from minivllm.bench.serve_workload import ServeRequest
from minivllm.bench.soak_load import Client, Tally

OWN_SERVER = ("--num-gpu-blocks-override", "150", "--log-level", "warning")
IDLE_SECONDS = 30.0
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench soak`."""
    parser.add_argument("--minutes", type=int, default=30, help="how long (default: 30)")
    parser.add_argument(
        "--minute-seconds", type=float, default=60.0, help="seconds of load between two pauses"
    )
    parser.add_argument("--base-url", help="of a running server (default: one is started)")
    parser.add_argument("--api-key", help="default: $OPENAI_API_KEY")
    parser.add_argument("--num-clients", type=int, default=8, help="threads that ask (default: 8)")
    parser.add_argument("--pause", type=float, default=0.2, help="mean seconds between a client's requests")
    parser.add_argument("--vocab-size", type=int, default=1000, help="random token ids are below this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="PATH", help="draw the minutes into this SVG file")
    parser.add_argument("--note", help="about the machine, such as what else it does; kept in the result")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ask for so long, print a line for each minute, and return all of them with what went wrong.

    Raises:
        SystemExit: an argument is out of range, or the server cannot be reached; with one sentence.
    """
    try:
        return _run(args)
    except ValueError as error:
        raise SystemExit(f"minivllm.bench soak: {error}") from error


def _run(args: argparse.Namespace) -> dict[str, Any]:
    for name, least in (("minutes", 1), ("num_clients", 1), ("pause", 0), ("vocab_size", 4)):
        if not getattr(args, name) >= least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(args, name)}")
    with nullcontext(args.base_url) if args.base_url else LiveServer(OWN_SERVER) as url:
        target = Target(url, "", args.api_key or os.environ.get("OPENAI_API_KEY"))
        target = Target(**{**vars(target), "model": first_model(target)})
        before = wait_until_idle(target, IDLE_SECONDS)
        print(HEADINGS)
        rows, texts = [], set[str]()
        for minute in range(args.minutes):
            row, control_texts = _one_minute(target, args, minute)
            rows.append(row)
            texts |= control_texts
            print(line_of(row), flush=True)
    failures = failures_of(rows, texts)
    result: dict[str, Any] = {"settings": settings_of(args), "blocks": before.num_blocks, "rows": rows}
    result |= {"summary": summarize(rows, texts), "failures": failures}
    if args.plot:
        from minivllm.bench.soak_plot import draw

        Path(args.plot).write_text(draw(result).to_svg(), encoding="utf-8")
    print("\n".join(failures) or "nothing leaked, nothing failed, nobody's text changed")
    return result


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for."""
    names = ("minutes", "minute_seconds", "num_clients", "pause", "seed", "note")
    return {name: getattr(args, name) for name in names}


def _one_minute(target: Target, args: argparse.Namespace, minute: int) -> tuple[dict[str, Any], set[str]]:
    """(the figures of one minute of load and the pause after it, the texts of its control requests)."""
    tally = Tally()
    peaks = Peaks(target, tally)
    preempted = read_state(target).num_preemptions
    until = time.monotonic() + args.minute_seconds
    threads = [threading.Thread(target=peaks.watch, args=(until,))]
    for client in range(args.num_clients):
        rng = random.Random(f"soak {args.seed} {minute} {client}")
        one = Client(target, rng, tally, args.vocab_size, max_len=1500)
        threads.append(threading.Thread(target=one.run, args=(until, args.pause)))
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    idle = wait_until_idle(target, IDLE_SECONDS)
    one.control()  # alone, it must say what it says under load
    row = {"minute": minute + 1, "seconds": seconds, **figures(tally, idle, peaks), **alone(target)}
    row["preemptions"] = idle.num_preemptions - preempted
    return row, tally.control_texts


def alone(target: Target) -> dict[str, float | None]:
    """Milliseconds of one request on the idle server and of the yardstick beside it: medians of five each."""
    request, yardsticks, timings = ServeRequest("Once upon a time", 24), [], []
    for _ in range(5):
        started = time.perf_counter()
        sum(i * i for i in range(300_000))
        yardsticks.append(1000 * (time.perf_counter() - started))
        timings.append(ask(target, request))
    good = [1000 * timing.e2el for timing in timings if timing.error is None]
    yardstick = median(yardsticks)
    return {
        "alone_e2el_ms": median(good) if good else None,
        "yardstick_ms": yardstick,
        "alone_in_yardsticks": median(good) / yardstick if good else None,
    }


class Peaks:
    """The most that was seen during a minute, looked at every half second."""

    def __init__(self, target: Target, tally: Tally) -> None:
        self._target = target
        self._tally = tally
        self.num_running = 0
        self.num_waiting = 0
        self.num_blocks_in_use = 0

    def watch(self, until: float) -> None:
        """Look until then."""
        while time.monotonic() < until:
            try:
                state = read_state(self._target)
            except ValueError as error:
                self._tally.note("status", 0, str(error))
                return
            for name in ("num_running", "num_waiting", "num_blocks_in_use"):
                setattr(self, name, max(getattr(self, name), getattr(state, name)))
            time.sleep(0.5)


def figures(tally: Tally, idle: ServerState, peaks: Peaks) -> dict[str, Any]:
    """What is kept of a minute; latencies in milliseconds, memory in MiB."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    row: dict[str, Any] = {
        "requests": sum(tally.sent.values()),
        "sent": dict(sorted(tally.sent.items())),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "output_tokens_timed": sum(timing.num_output_tokens for timing in tally.timings),
        "most_running": peaks.num_running,
        "most_waiting": peaks.num_waiting,
        "most_blocks_in_use": peaks.num_blocks_in_use,
        "idle_blocks_in_use": idle.num_blocks_in_use,
        "idle_running": idle.num_running,
        "idle_waiting": idle.num_waiting,
        "idle_rss_mib": None if idle.rss_bytes is None else idle.rss_bytes / MIB,
        "machine_load": load,
        "surprises": tally.surprises[:5],
        "num_surprises": len(tally.surprises),
    }
    values = {
        "ttft": sorted(1000 * timing.ttft for timing in tally.timings),
        "itl": sorted(1000 * gap for timing in tally.timings for gap in timing.itl),
    }
    for name, ordered in values.items():
        for percentile in (50, 99):
            row[f"p{percentile}_{name}_ms"] = percentile_of(ordered, percentile) if ordered else None
    return row


def failures_of(rows: list[dict[str, Any]], control_texts: set[str]) -> list[str]:
    """What must not happen and did, a sentence each."""
    failures = []
    for row in rows:
        left = {name: row[f"idle_{name}"] for name in ("blocks_in_use", "running", "waiting")}
        if any(left.values()):
            failures.append(f"minute {row['minute']}: not idle after the load: {left}")
        failures += [f"minute {row['minute']}: {surprise}" for surprise in row["surprises"]]
    if len(control_texts) != 1:
        failures.append(f"the same request was answered in {len(control_texts)} ways")
    return failures


def summarize(rows: list[dict[str, Any]], control_texts: set[str]) -> dict[str, Any]:
    """The whole run in a few figures; the last third against the first shows whether something grows."""
    third = max(1, len(rows) // 3)

    def growth(name: str) -> float | None:
        first = [row[name] for row in rows[:third] if row[name] is not None]
        last = [row[name] for row in rows[-third:] if row[name] is not None]
        return median(last) / median(first) if first and last else None

    return {
        "requests": sum(row["requests"] for row in rows),
        "answers_5xx": sum(n for row in rows for status, n in row["statuses"].items() if status[0] == "5"),
        "surprises": sum(row["num_surprises"] for row in rows),
        "leaked_blocks": max(row["idle_blocks_in_use"] for row in rows),
        "preemptions": sum(row["preemptions"] for row in rows),
        "control_texts": len(control_texts),
        "last_third_to_first": {
            name: growth(name)
            for name in (
                *("alone_e2el_ms", "yardstick_ms", "alone_in_yardsticks"),
                *("p50_ttft_ms", "p50_itl_ms", "idle_rss_mib"),
            )
        },
    }


HEADINGS = (
    f"{'minute':>6}{'requests':>9}{'5xx':>5}{'preempt.':>9}{'blocks left':>12}{'RSS MiB':>9}"
    f"{'TTFT p50':>10}{'p99 ms':>9}{'ITL p50':>9}{'p99 ms':>9}{'alone ms':>10}{'yardstick':>10}"
)


def line_of(row: dict[str, Any]) -> str:
    """A minute for the terminal."""

    def shown(value: float | None, width: int) -> str:
        return f"{'-':>{width}}" if value is None else f"{value:{width}.1f}"

    failed = sum(n for status, n in row["statuses"].items() if status[0] == "5")
    latencies = shown(row["p50_ttft_ms"], 10) + "".join(
        shown(row[name], width)
        for name, width in (
            ("p99_ttft_ms", 9),
            ("p50_itl_ms", 9),
            ("p99_itl_ms", 9),
            ("alone_e2el_ms", 10),
            ("yardstick_ms", 10),
        )
    )
    return (
        f"{row['minute']:6d}{row['requests']:9d}{failed:5d}{row['preemptions']:9d}"
        f"{row['idle_blocks_in_use']:12d}{shown(row['idle_rss_mib'], 9)}{latencies}"
    )
