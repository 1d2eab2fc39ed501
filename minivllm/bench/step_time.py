"""Where the time of a step goes: schedule, prepare, layers, sample, detokenize; in microseconds per step.

Beside it stand two more measurements of the same run. `floor`: what the weights alone cost at least, each read once at
the speed of memory, or multiplied with each token at the speed of a large matrix product, whichever takes longer.
`layers apart`: the parts of the layers, for which they run one operation after the other; usually they are one call.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from minivllm.bench import workload
from minivllm.bench.profile_step import machine_gflops, machine_gigabytes
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
MODEL_PARTS = {"embedding": ("embed",), "layers": ("forward",), "head": ("compute_logits",)}
MODULE_PARTS = {  # section of the layers -> names of module classes
    "norm": ("RMSNorm",),
    "qkv and o": ("QKVParallelLinear",),
    "rotary, q/k norm": ("SelfAttention", "QKNorm", "RotaryEmbedding"),
    "attention": ("Attention",),
    "mlp": ("GatedMLP",),
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
    machine = {"gflops": machine_gflops(), "gigabytes": machine_gigabytes()}
    columns = {name: best_of(llm, name, args, machine) for name in args.workload}
    _print(columns)
    about = {"model": args.model, "detokenize": args.detokenize, "machine": machine}
    return {**about, "workloads": columns}


def best_of(llm: LLM, name: str, args: argparse.Namespace, machine: dict[str, float]) -> dict[str, Any]:
    """The fastest repetition of a workload, and the parts of its layers in the fastest of as many others."""
    model = llm.llm_engine.executor.runner.model  # type: ignore[attr-defined]  # of the executor of one process

    def best(first: int) -> dict[str, Any]:
        rounds = [
            profile(llm, requests_of(name, first + repetition), args.detokenize, machine)
            for repetition in range(args.repetitions)
        ]
        return min(rounds, key=lambda column: column["us_per_step"])

    column, fused = best(0), model.fused
    model.fused = None
    try:
        apart = best(args.repetitions)["sections"]
    finally:
        model.fused = fused
    sections = {part: us for part, us in column["sections"].items() if part not in MODULE_PARTS}
    parts = {part: apart[part] for part in MODULE_PARTS} | {"layers, the rest": apart["layers"]}
    return {**column, "sections": sections, "layers_apart": parts}


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


def profile(
    llm: LLM, requests: Sequence[BenchRequest], detokenize: bool, machine: dict[str, float]
) -> dict[str, Any]:
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
        "floor_us_per_step": round(sum(floor(llm, n, machine) for n in clock.step_tokens) / steps * 1e6, 1),
        "sections": sections | {"engine, the rest": round((total - inside) / steps * 1e6, 1)},
    }


def floor(llm: LLM, num_tokens: int, machine: dict[str, float]) -> float:
    """Seconds that the weights cost in a step of so many tokens: the reading or the arithmetic, not both."""
    (report,) = llm.llm_engine.executor.report()
    config = llm.llm_engine.model_config
    looked_up = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    flops = 2 * (report.num_parameters - looked_up) * num_tokens
    return max(report.parameter_bytes / machine["gigabytes"], flops / machine["gflops"]) / 1e9


class SectionClock:
    """Adds up the time spent in each section, by CPU time of the calling thread: what else the machine does is out.

    Sections may call one another; the time belongs to the innermost one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(
            (*ENGINE_PARTS, *RUNNER_PARTS, *MODEL_PARTS, *MODULE_PARTS), 0.0
        )
        self.step_tokens: list[int] = []
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
        for section, names in MODEL_PARTS.items():
            for method in names:
                yield self._wrap(runner.model, method, section)
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
            if method == "execute_model":
                self.step_tokens.append(args[0].total_num_scheduled_tokens)
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
    def line(name: str, values: Iterable[float]) -> None:
        print(f"{name:24}" + "".join(f"{value:15,.1f}" for value in values))

    print(f"{'us per step':24}" + "".join(f"{name:>15}" for name in columns))
    some = next(iter(columns.values()))
    for section in some["sections"]:
        line(section, (column["sections"][section] for column in columns.values()))
    for name, key in {"all": "us_per_step", "floor": "floor_us_per_step", "steps": "steps"}.items():
        line(name, (column[key] for column in columns.values()))
    print("\nlayers apart")
    for section in some["layers_apart"]:
        line(section, (column["layers_apart"][section] for column in columns.values()))
