"""Everything that needs a GPU, with one command: the tests, compiled, then the kernels, then whole models.

Each part runs in a process of its own and writes its result at once, with the machine, the date and the commit, so that
one that fails takes nothing from the others. --smoke runs all of it with tiny sizes, on a CPU too (interpreted).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from minivllm.bench.kernels import find_device
from minivllm.bench.report import RESULTS

CHECKOUT = Path(__file__).parents[2]
TESTS = ("tests/kernels", "tests/worker/test_padded_decode.py", "tests/attention/test_backends.py")
MEASUREMENTS = ("kernels", "decode-floor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench gpu`."""
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: ours)")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any device")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the parts one after the other; `failures` names those that failed."""
    device = find_device("gpu", args.smoke)
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if device == "cpu":
        env["TRITON_INTERPRET"] = "1"
    rows = [run_part(name, command, env) for name, command in commands(args).items()]
    return {"smoke": args.smoke, "parts": rows, "failures": [row["part"] for row in rows if row["status"]]}


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Part -> what to run, in order. Where there is no checkout there are no tests."""
    parts = {}
    if not args.no_tests and (CHECKOUT / "tests").exists():
        parts["tests"] = ["pytest", "-q", *(str(CHECKOUT / path) for path in TESTS)]
    for name in MEASUREMENTS:
        smoke = ["--smoke"] if args.smoke else []
        parts[name] = ["minivllm.bench", name, *smoke, "--json", str(args.out / f"{name}.json")]
    return parts


def run_part(name: str, command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """Run `python -m COMMAND` and say how it ended."""
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, "-m", *command], env=env, check=False).returncode
    return {"part": name, "status": status, "seconds": time.perf_counter() - start}
