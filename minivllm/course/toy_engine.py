"""A toy engine: the real scheduler and KV cache manager, and a worker without a model. For graders and notebooks.

The worker knows only what a SchedulerOutput tells it. A slot of its memory holds the whole prefix of the token that was
written there, as the keys of a real layer depend on all of it; so whoever reads a wrong slot notices. The next token is
a function of the request's tokens alone, hence the same in every correct schedule. What goes wrong is written down in
`wrong`, and nothing is raised for it: a grader decides which law it breaks.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import SamplingParams


def next_token(tokens: Sequence[int]) -> int:
    """What the toy model says after `tokens`."""
    return 100 + zlib.crc32(repr(list(tokens)).encode()) % 900


def said_alone(prompt: Sequence[int], max_tokens: int) -> list[int]:
    """The answer to `prompt`, by a loop that knows no blocks, no budget and no neighbours."""
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@dataclass(frozen=True)
class ToyStep:
    """What a step did, by name of the request."""

    num_tokens: Mapping[str, int]  # tokens computed
    num_computed: Mapping[str, int]  # tokens in the cache before
    admitted: tuple[str, ...]
    preempted: tuple[str, ...]
    running: tuple[str, ...]  # after admission, in the policy's order
    waiting: tuple[str, ...]  # the same of those that wait
    num_free: int  # blocks

    @property
    def load(self) -> int:
        """Tokens of the step in all."""
        return sum(self.num_tokens.values())


@dataclass
class _Row:
    """What the worker knows of a request that runs."""

    tokens: list[int]
    blocks: list[int]


class ToyWorker:
    """Does what SchedulerOutputs say, in a memory of token prefixes."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.wrong: list[str] = []
        self._rows: dict[str, _Row] = {}
        self._memory: dict[int, tuple[int, ...]] = {}  # slot -> the prefix that ends there

    def execute(self, output: SchedulerOutput) -> dict[str, list[int]]:
        """One step. Returns a token for each request whose known tokens are all computed now."""
        self._listen(output)
        stops = {}
        for name, count in output.num_scheduled_tokens.items():
            start = output.num_computed_tokens[name]
            if self._may_compute(name, start, count):
                stops[name] = start + count
                self._write(self._rows[name], start, start + count)
        return {name: [self._sample(name)] for name, stop in stops.items() if self._reads_all(name, stop)}

    def _listen(self, output: SchedulerOutput) -> None:
        for name in (*output.finished_request_ids, *output.preempted_request_ids):
            self._rows.pop(name, None)
        for new in output.new_requests:
            if new.request.request_id in self._rows:
                self.wrong.append(
                    f"{new.request.request_id} begins again, and the worker thinks that it runs"
                )
            self._rows[new.request.request_id] = _Row(list(new.token_ids), list(new.block_ids))
        for name, updates in output.block_updates.items():
            for index, block_id in updates if name in self._rows else ():
                blocks = self._rows[name].blocks
                blocks.extend([0] * (index + 1 - len(blocks)))
                blocks[index] = block_id

    def _may_compute(self, name: str, start: int, count: int) -> bool:
        row, what = self._rows.get(name), f"{name} is to compute {count} tokens from position {start} on"
        if row is None:
            self.wrong.append(f"{what}, and the worker does not know it")
        elif count < 1:
            self.wrong.append(what)
        elif start + count > len(row.tokens):
            self.wrong.append(f"{what}, and has {len(row.tokens)} tokens")
        elif start + count > len(row.blocks) * self.block_size:
            self.wrong.append(f"{what}, and its blocks end at {len(row.blocks) * self.block_size}")
        else:
            return True
        return False

    def _slot(self, row: _Row, position: int) -> int:
        return row.blocks[position // self.block_size] * self.block_size + position % self.block_size

    def _write(self, row: _Row, start: int, stop: int) -> None:
        for position in range(start, stop):
            self._memory[self._slot(row, position)] = tuple(row.tokens[: position + 1])

    def _reads_all(self, name: str, stop: int) -> bool:
        """Read the whole context, as attention does. Were these the last known tokens?"""
        row = self._rows[name]
        for position in range(stop):
            if self._memory.get(self._slot(row, position)) != tuple(row.tokens[: position + 1]):
                self.wrong.append(f"{name} reads position {position}, and its own token is not there")
                break
        return stop == len(row.tokens)

    def _sample(self, name: str) -> int:
        tokens = self._rows[name].tokens
        tokens.append(next_token(tokens))
        return tokens[-1]


class ToyEngine:
    """A scheduler, its manager and a ToyWorker, stepped together.

    Args:
        scheduler_class: anybody's Scheduler.
        num_blocks, block_size, caching: of the KV cache; `num_blocks` counts the null block.
        manager_class: anybody's KVCacheManager.
        config: fields of SchedulerConfig.
    """

    def __init__(
        self,
        scheduler_class: Callable[[SchedulerConfig, KVCacheManager], Scheduler] = Scheduler,
        *,
        num_blocks: int = 32,
        block_size: int = 2,
        caching: bool = False,
        manager_class: Callable[[int, int, bool], KVCacheManager] = KVCacheManager,
        **config: Any,
    ) -> None:
        self.manager = manager_class(num_blocks, block_size, caching)
        self.scheduler = scheduler_class(SchedulerConfig(**({"max_model_len": 64} | config)), self.manager)
        self.worker = ToyWorker(block_size)
        self.requests: dict[str, Request] = {}
        self.steps: list[ToyStep] = []
        self._in_flight: deque[tuple[SchedulerOutput, dict[str, list[int]]]] = deque()

    def add(self, name: str, prompt: Sequence[int], max_tokens: int = 1, priority: int = 0) -> None:
        """Queue a request."""
        params = SamplingParams(max_tokens=max_tokens)
        request = Request(name, list(prompt), params, max_tokens=max_tokens, priority=priority)
        self.scheduler.add_request(request)
        self.requests[name] = request

    def step(self) -> ToyStep:
        """One whole step."""
        step = self.schedule()
        self.take_in()
        return step

    def schedule(self) -> ToyStep:
        """The first half: decide, and let the worker compute. The scheduler learns what came of it in `take_in`."""
        output = self.scheduler.schedule()
        step = ToyStep(
            dict(output.num_scheduled_tokens),
            dict(output.num_computed_tokens),
            tuple(new.request.request_id for new in output.new_requests),
            tuple(output.preempted_request_ids),
            tuple(request.request_id for request in self.scheduler.running),
            tuple(request.request_id for request in self.scheduler.waiting),
            self.manager.pool.num_free_blocks,
        )
        self.steps.append(step)
        self._in_flight.append((output, self.worker.execute(output)))
        return step

    def take_in(self) -> None:
        """The second half, of the oldest step that has not returned."""
        self.scheduler.update_from_output(*self._in_flight.popleft())

    def abort(self, name: str) -> None:
        """The client of a request is gone."""
        self.scheduler.finish_requests([name], RequestStatus.FINISHED_ABORTED)

    def num_tokens_found(self, prompt: Sequence[int]) -> int:
        """How many tokens of `prompt` a request that comes now would find in the prefix cache."""
        request = Request("who looks", list(prompt), SamplingParams())
        blocks = self.manager.get_computed_blocks(request)
        self.manager.forget(request)
        return len(blocks) * self.manager.block_size

    def run(self, max_steps: int = 300) -> int:
        """Step until all have finished, or `max_steps` steps were made in all. Returns the number of steps."""
        while self.scheduler.has_unfinished_requests() and len(self.steps) < max_steps:
            self.step()
        return len(self.steps)

    @property
    def wrong(self) -> list[str]:
        """What the worker could not do, or read where it should not: a sentence each."""
        return self.worker.wrong

    @property
    def unfinished(self) -> list[str]:
        """The names of those that have not finished."""
        return [name for name, request in self.requests.items() if not request.status.is_finished]

    @property
    def outputs(self) -> dict[str, list[int]]:
        """What everybody has said so far."""
        return {name: list(request.output_token_ids) for name, request in self.requests.items()}

    @property
    def num_held(self) -> int:
        """Blocks that requests hold, together."""
        return self.manager.pool.num_blocks - 1 - self.manager.pool.num_free_blocks

    def timeline(self) -> str:
        """A line for each request, a column for each step: tokens computed, . = waits, x = preempted."""
        width = max([4, *map(len, self.requests)]) + 1
        lines = ["step".ljust(width) + "".join(f"{i:>4}" for i in range(1, len(self.steps) + 1))]
        for name in self.requests:
            cells = "".join(f"{_cell(step, name):>4}" for step in self.steps)
            lines.append((name.ljust(width) + cells).rstrip())
        lines.append("load".ljust(width) + "".join(f"{step.load:>4}" for step in self.steps))
        return "\n".join(lines)


def _cell(step: ToyStep, name: str) -> str:
    if name in step.preempted:
        return "x"
    if name in step.num_tokens:
        return str(step.num_tokens[name])
    return "." if name in step.waiting else ""
