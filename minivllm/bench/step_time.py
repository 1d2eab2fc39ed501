"""Where the time of a step goes: schedule, prepare, the layers' parts, sample, detokenize; in microseconds per step."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from minivllm.bench import workload
from minivllm.bench.workload import BenchRequest
from minivllm.engine import LLMEngine
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

WORKLOADS = ("mixed", "single", "shared-prefix")
ENGINE_PARTS = {  # section -> (attribute of the engine or of its runner, methods)
    "schedule": ("scheduler", ("schedule", "update_from_output")),
    "output": ("output_processor", ("take_in", "make_outputs")),
}
RUNNER_PARTS = {
    "prepare": ("_update_batch", "_prepare_inputs", "_rows_parameters"),
    "runner, the rest": ("execute_model", "_sample"),
    "sample": ("_choose",),
}
MODULE_PARTS = {  # section -> names of module classes
    "embedding": ("VocabParallelEmbedding", "PackedEmbedding"),
    "norm": ("RMSNorm",),
    "qkv and o": ("QKVParallelLinear",),
    "rotary, q/k norm": ("SelfAttention", "QKNorm", "RotaryEmbedding"),
    "attention": ("Attention",),
    "mlp": ("GatedMLP",),
    "head": ("ParallelLMHead", "PackedLMHead"),
    "layers, the rest": ("DecoderLayer", "DecoderModel"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench step-time`."""
    parser.add_argument(
        "--model", default="tutor", help="a shipped model, a folder or a hub id (default: tutor)"
    )
    parser.add_argument(
        "--workload", nargs="*", choices=WORKLOADS, default=list(WORKLOADS), help="(default: all three)"
    )
    parser.add_argument("--repetitions", type=int, default=5, help="of each, the fastest counts (default: 5)")
    parser.add_argument(
        "--detokenize", action="store_true", help="make text of the tokens, as the server does"
    )
    parser.add_argument("--attention-backend", default="auto", help="(default: auto)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Profile, and print a table with a column for each workload."""
    llm = LLM(args.model, attention_backend=args.attention_backend)
    run_once(llm, workload.mixed(4, 256, repetition=-1), args.detokenize)
    columns = {}
    for name in args.workload:
        rounds = [
            profile(llm, requests_of(name, repetition), args.detokenize)
            for repetition in range(args.repetitions)
        ]
        columns[name] = min(rounds, key=lambda column: column["us_per_step"])
    _print(columns)
    return {"model": args.model, "detokenize": args.detokenize, "workloads": columns}


def requests_of(name: str, repetition: int) -> list[BenchRequest]:
    """The requests of a workload; token ids differ in each repetition, lengths do not."""
    if name == "single":
        return workload.shared_prefix(1, 256, repetition, shared=48, own=16, output=128)
    if name == "shared-prefix":
        return workload.shared_prefix(32, 256, repetition)
    return workload.mixed(64, 256, repetition)


def run_once(llm: LLM, requests: Sequence[BenchRequest], detokenize: bool) -> None:
    """All requests at once, greedy, exact lengths."""
    params = [
        SamplingParams(temperature=0, max_tokens=r.output_len, ignore_eos=True, detokenize=detokenize)
        for r in requests
    ]
    llm.generate([r.prompt_token_ids for r in requests], params, use_tqdm=False)


def profile(llm: LLM, requests: Sequence[BenchRequest], detokenize: bool) -> dict[str, Any]:
    """Microseconds per step by section, what the section calls in other sections not counted."""
    clock = SectionClock()
    with clock.watching(llm.llm_engine):
        start = time.thread_time()
        run_once(llm, requests, detokenize)
        total = time.thread_time() - start
    steps = clock.calls["execute_model"]
    sections = {name: round(seconds / steps * 1e6, 1) for name, seconds in clock.seconds.items()}
    inside = sum(clock.seconds.values())
    return {
        "steps": steps,
        "output_tokens": sum(r.output_len for r in requests),
        "us_per_step": round(total / steps * 1e6, 1),
        "sections": sections | {"engine, the rest": round((total - inside) / steps * 1e6, 1)},
    }


class SectionClock:
    """Adds up the time spent in each section, by CPU time of the calling thread: what else the machine does is out.

    Sections may call one another; the time belongs to the innermost one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys((*ENGINE_PARTS, *RUNNER_PARTS, *MODULE_PARTS), 0.0)
        self.calls: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def watching(self, engine: LLMEngine) -> Iterator[None]:
        """Wrap the methods of this engine while the block runs."""
        runner = engine.executor.runner  # type: ignore[attr-defined]  # of the executor of one process
        wrapped = list(self._wrap_all(engine, runner))
        try:
            yield
        finally:
            for owner, method in wrapped:
                delattr(owner, method)

    def _wrap_all(self, engine: LLMEngine, runner: Any) -> Iterator[tuple[Any, str]]:
        for section, (part, methods) in ENGINE_PARTS.items():
            for method in methods:
                yield self._wrap(getattr(engine, part), method, section)
        for section, names in RUNNER_PARTS.items():
            for method in names:
                yield self._wrap(runner, method, section)
        for module in runner.model.modules():
            for section, classes in MODULE_PARTS.items():
                if type(module).__name__ in classes:
                    yield self._wrap(module, "forward", section)
        yield from self._wrap_linears(runner.model)

    def _wrap_linears(self, model: nn.Module) -> Iterator[tuple[Any, str]]:
        for name, module in model.named_modules():
            if name.endswith(".o_proj"):
                yield self._wrap(module, "forward", "qkv and o")

    def _wrap(self, owner: Any, method: str, section: str) -> tuple[Any, str]:
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            self._switch()
            self._open.append(section)
            try:
                return original(*args, **kwargs)
            finally:
                self._switch()
                self._open.pop()

        object.__setattr__(owner, method, timed)
        return owner, method

    def _switch(self) -> None:
        now = time.thread_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def _print(columns: dict[str, dict[str, Any]]) -> None:
    print(f"{'us per step':20}" + "".join(f"{name:>15}" for name in columns))
    for section in next(iter(columns.values()))["sections"]:
        print(
            f"{section:20}" + "".join(f"{column['sections'][section]:15.1f}" for column in columns.values())
        )
    print(f"{'all':20}" + "".join(f"{column['us_per_step']:15.1f}" for column in columns.values()))
    print(f"{'steps':20}" + "".join(f"{column['steps']:15}" for column in columns.values()))
