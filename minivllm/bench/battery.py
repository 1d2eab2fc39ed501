"""Hostile input on a live server: every bad request gets its 4xx, and nobody else notices.

A victim streams one request over and over meanwhile: its text must never change. Afterwards many clients are cut off in
the middle of their streams: every block must be free again at once. Without --base-url a server is started.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from typing import Any

from minivllm.bench.battery_send import Report, attack, send_all, try_keys
from minivllm.bench.battery_victim import Victim, cut_off_clients
from minivllm.bench.hostile import hostile_inputs
from minivllm.bench.live_server import LiveServer, get, read_state, wait_until_idle
from minivllm.bench.serve_client import Target, first_model

# A KV cache that is soon used up to its end: memory that is touched for the first time is not mistaken for a leak.
OWN_SERVER = ("--num-gpu-blocks-override", "512", "--log-level", "warning", "--uvicorn-log-level", "info")
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench battery`."""
    parser.add_argument("--base-url", help="of a running server (default: one is started)")
    parser.add_argument("--api-key", help="default: $OPENAI_API_KEY")
    parser.add_argument("--rounds", type=int, default=2, help="a leak grows in each (default: 2)")
    parser.add_argument("--every", type=int, default=1, help="send only each so many-th input (default: 1)")
    parser.add_argument(
        "--num-cut-off", type=int, default=200, help="clients cut off mid-stream (default: 200)"
    )
    parser.add_argument("--skip-sockets", action="store_true", help="leave out what happens below HTTP")
    parser.add_argument("--note", help="about the machine, such as what else it does; kept in the result")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Send everything, print the table, and return it with what went wrong.

    Raises:
        SystemExit: the server cannot be reached, or an argument is out of range; with one sentence.
    """
    try:
        for name, least in (("rounds", 1), ("every", 1), ("num_cut_off", 0)):
            if getattr(args, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(args, name)}")
        if args.base_url:
            return _run(args, args.base_url, args.api_key or os.environ.get("OPENAI_API_KEY"))
        key = secrets.token_urlsafe()
        with LiveServer((*OWN_SERVER, "--api-key", key)) as url:
            return _run(args, url, key)
    except ValueError as error:
        raise SystemExit(f"minivllm.bench battery: {error}") from error


def _run(args: argparse.Namespace, url: str, api_key: str | None) -> dict[str, Any]:
    target = Target(url, "", api_key, timeout=120.0)
    target = Target(**{**vars(target), "model": first_model(target)})
    status, openapi = get(target, "/openapi.json")
    if status != 200:
        raise ValueError(f"{url} has no /openapi.json, from which the fields are taken")
    inputs = list(hostile_inputs(json.loads(openapi)))[:: args.every]
    report = Report()
    victim = Victim(target)
    rss = [wait_until_idle(target, 60).rss_bytes]
    victim.start()
    try:
        for _ in range(args.rounds):
            send_all(target, inputs, report)
            rss.append(read_state(target).rss_bytes)
        if not args.skip_sockets:
            attack(target, report)
        if api_key:
            try_keys(target, report)
    finally:
        victim.stop()
    report.failures += victim.failures()
    cut_off = cut_off_clients(target, args.num_cut_off, report) if args.num_cut_off else None
    rss.append(wait_until_idle(target, 60).rss_bytes)
    print(report.table())
    result = {
        "rounds": args.rounds,
        "every": args.every,
        "note": args.note,
        "inputs": report.num_inputs,
        "ideas": report.rows(),
        "answers_5xx": sum(row["5xx"] for row in report.rows()),
        "victim": {"streams": len(victim.texts), "texts": len(set(victim.texts))},
        "rss_mib": [None if value is None else round(value / MIB, 1) for value in rss],
        "cut_off": cut_off,
        "failures": report.failures,
    }
    for name in ("inputs", "answers_5xx", "victim", "rss_mib", "cut_off"):
        print(f"{name}: {result[name]}")
    print("\n".join(report.failures[:20]) or "all refused in time, nobody else touched")
    return result
