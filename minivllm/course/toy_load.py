"""Loads for the toy engine: requests that come at a step and may leave at a later one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.course.toy_engine import ToyEngine


@dataclass(frozen=True)
class LoadRequest:
    """One request of a load."""

    name: str
    prompt: Sequence[int]  # token ids
    max_tokens: int
    arrival: int = 0  # comes before this step; the first step is number 0
    leaves: int | None = None  # its client leaves before this step, a later one; None = it stays


class LoggedEngine(ToyEngine):
    """A toy engine that writes down who came and who left, and before which step."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.calls: list[tuple[str, str, int]] = []

    def add(self, name: str, prompt: Sequence[int], max_tokens: int = 1, priority: int = 0) -> None:
        """As in ToyEngine."""
        self.calls.append(("add", name, len(self.steps)))
        super().add(name, prompt, max_tokens, priority)

    def abort(self, name: str) -> None:
        """As in ToyEngine."""
        self.calls.append(("abort", name, len(self.steps)))
        super().abort(name)


def idea_load(seed: int = 14, num_requests: int = 40) -> list[LoadRequest]:
    """Many short questions and a few long ones, more than the engine can serve at once; drawn with a seed."""
    draw = Random(seed)
    load = []
    for number in range(num_requests):
        is_long = draw.random() < 0.2
        num_prompt, max_tokens = draw.randint(2, 6), draw.randint(20, 30) if is_long else draw.randint(2, 6)
        prompt = range(1000 * number, 1000 * number + num_prompt)
        load.append(LoadRequest(f"r{number}", prompt, max_tokens, arrival=draw.randint(0, 2 * num_requests)))
    return sorted(load, key=lambda one: one.arrival)


def starving_load(num_short: int = 200) -> list[LoadRequest]:
    """One long request, `long`, in a stream of short ones: one at every step, more than three seats can serve."""
    load = [
        LoadRequest(f"s{i}", range(100 * i, 100 * i + 3), max_tokens=4, arrival=i) for i in range(num_short)
    ]
    load.insert(5, LoadRequest("long", range(50, 55), max_tokens=25, arrival=4))
    return load


def serve_load(
    scheduler_class: Callable[[SchedulerConfig, KVCacheManager], Scheduler],
    load: Sequence[LoadRequest],
    max_steps: int = 2000,
    num_blocks: int = 40,
) -> tuple[ToyEngine, dict[str, int]]:
    """Serve a load from which nobody leaves, three seats, a budget of 8 tokens.

    Returns:
        The engine, and the number of steps from arrival to end of everybody who has finished.
    """
    engine = ToyEngine(
        scheduler_class, num_blocks=num_blocks, block_size=4, max_num_seqs=3, max_num_batched_tokens=8
    )
    coming, arrivals, took = list(load), {one.name: one.arrival for one in load}, {}
    for number in range(max_steps):
        while coming and coming[0].arrival <= number:
            one = coming.pop(0)
            engine.add(one.name, one.prompt, one.max_tokens)
        if not coming and not engine.unfinished:
            break
        engine.step()
        for name, request in engine.requests.items():
            if request.status.is_finished and name not in took:
                took[name] = number + 1 - arrivals[name]
    return engine, took
