"""How soon `serve` answers: from the command to the first 200 of /health, and what the time goes into.

In turn with it, in fresh processes: `import torch`, below which no server with torch can come, and transformers
loading the same model and its tokenizer.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

from minivllm.bench.live_server import START_SECONDS, get, read_state
from minivllm.bench.serve_client import Target
from minivllm.config import resolve_model

TORCH = "import torch"
TRANSFORMERS = (
    "from transformers import AutoModelForCausalLM, AutoTokenizer; "
    "AutoTokenizer.from_pretrained({path!r}); AutoModelForCausalLM.from_pretrained({path!r})"
)
MARKS = {
    "imports": "Loading ",
    "engine": "Serving ",
    "app": "Uvicorn running on ",
}  # the line that ends each part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench startup`."""
    parser.add_argument("--model", default="tutor", help="a shipped model or a folder (default: tutor)")
    parser.add_argument("--rounds", type=int, default=5, help="after one that is not counted (default: 5)")
    parser.add_argument("--note", help="about the machine; kept in the result")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start everything in turns, print a table."""
    path = resolve_model(args.model)
    rounds: list[dict[str, Any]] = []
    for _ in range(args.rounds + 1):  # the first one fills the caches of Python and of the disk
        serve, rss_mib = seconds_of_serve(args.model)
        alone = {"torch": seconds_of(TORCH), "transformers": seconds_of(TRANSFORMERS.format(path=str(path)))}
        rounds.append({"serve": serve, "rss_mib": rss_mib, **alone})
    rounds = rounds[1:]
    result = {
        "model": args.model,
        "rounds": args.rounds,
        "note": args.note,
        "ready": _spread([sum(r["serve"].values()) for r in rounds]),
        "parts": {part: _spread([r["serve"][part] for r in rounds]) for part in rounds[0]["serve"]},
        "rss_mib": rounds[-1]["rss_mib"],
        "import_torch": _spread([r["torch"] for r in rounds]),
        "transformers": _spread([r["transformers"] for r in rounds]),
        "times_import_torch": _spread([sum(r["serve"].values()) / r["torch"] for r in rounds]),
        "times_transformers": _spread([sum(r["serve"].values()) / r["transformers"] for r in rounds]),
    }
    _print(result)
    return result


def seconds_of_serve(model: str) -> tuple[dict[str, float], int | None]:
    """Seconds of each part of a start, and the memory in use then, in MiB, where the system tells.

    Raises:
        ValueError: the server did not start; with the last lines of its log.
    """
    command = [sys.executable, "-m", "minivllm.serve", model, "--port", "0"]
    last = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            seconds, lines, parts = {}, [], list(MARKS)
            while parts:
                lines.append(process.stdout.readline())
                if not lines[-1]:
                    raise ValueError("the server did not start:\n" + "".join(lines[-6:]).rstrip())
                if MARKS[parts[0]] in lines[-1]:
                    now = time.monotonic()
                    seconds[parts.pop(0)], last = now - last, now
            target = Target(lines[-1].split(MARKS["app"])[1].split()[0], model)
            status, _ = get(target, "/health")
            if status != 200:
                raise ValueError(f"/health answers {status}")
            seconds["first answer"] = time.monotonic() - last
            rss = read_state(target).rss_bytes
            return seconds, None if rss is None else round(rss / 2**20)
        finally:
            process.terminate()


def seconds_of(program: str) -> float:
    """Of a fresh interpreter that runs a program; taking everything apart at the end does not count."""
    command = [sys.executable, "-c", f"{program}; import os; os._exit(0)"]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS)
    return time.monotonic() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _print(result: dict[str, Any]) -> None:
    rows = {
        "serve, ready": result["ready"],
        **{f"  {part}": spread for part, spread in result["parts"].items()},
        "import torch": result["import_torch"],
        "transformers, model loaded": result["transformers"],
    }
    for name, spread in rows.items():
        print(f"{name:28}{spread['median']:8.2f} s  ({spread['min']:.2f} - {spread['max']:.2f})")
    print(f"memory then: {result['rss_mib']} MiB")
