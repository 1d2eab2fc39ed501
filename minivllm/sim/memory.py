"""The memory simulator: a trace against one policy, one token per running request and step, a frame at every event.

The rules are the engine's: requests are admitted first come, first served, and the one at the head blocks the rest;
running requests grow before anybody is admitted; when there is no room to grow, whoever came last is preempted, loses
everything and goes to the head of the queue (recompute). There is no compute here: a prompt takes one step, as a token
does, and a step takes `step_time` seconds of the trace's clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minivllm.sim.policies.base import MemoryPolicy
from minivllm.sim.trace import Trace, TraceRequest
from minivllm.sim.usage import Piece, Usage

EVENTS = ("arrive", "append", "preempt", "admit", "step", "finish")

KeepLayout = Callable[[int, str], bool]  # (step, event) -> shall this frame carry the layout?


class Frame(NamedTuple):
    """The state after one event. `step` frames close a step, when everybody has written: those are averaged over."""

    step: int
    event: str  # one of EVENTS
    request_id: str | None  # whom it concerns; None for `step`
    usage: Usage
    num_running: int
    num_waiting: int
    layout: tuple[Piece, ...] | None = None


@dataclass(slots=True, eq=False)
class _Live:
    """A request on its way."""

    request: TraceRequest
    num_sampled: int = 0

    @property
    def num_tokens(self) -> int:
        """Known tokens: what has to be in the cache before the next one can be sampled."""
        return self.request.prompt_len + self.num_sampled

    @property
    def is_finished(self) -> bool:
        return self.num_sampled == self.request.output_len


class MemorySimulator:
    """One run; `frames()` plays it once.

    Raises:
        ValueError: a number out of range, or a request that the policy could never hold.
    """

    def __init__(
        self,
        trace: Trace,
        policy: MemoryPolicy,
        *,
        step_time: float = 0.05,
        max_num_seqs: int | None = None,
        events: Collection[str] = EVENTS,
        keep_layout: KeepLayout | None = None,
    ) -> None:
        if not 0 < step_time < math.inf:
            raise ValueError(f"step_time must be a finite number of seconds above 0, not {step_time!r}")
        if max_num_seqs is not None and max_num_seqs < 1:
            raise ValueError(f"max_num_seqs must be at least 1, not {max_num_seqs}")
        for request in trace.requests:
            policy.check_fits_alone(request)
        self.policy = policy
        self.num_preemptions = 0
        self.num_recomputed_tokens = 0  # written a second time, because a preemption threw them away
        self._arriving = deque(_Live(request) for request in trace.requests)
        self._waiting: deque[_Live] = deque()
        self._running: list[_Live] = []
        self._step_time = step_time
        self._max_num_seqs = len(trace.requests) if max_num_seqs is None else max_num_seqs
        self._events = events
        self._keep_layout = keep_layout
        self._step = 0

    def frames(self) -> Iterator[Frame]:
        """Play the trace to its end."""
        while self._arriving or self._waiting or self._running:
            self._skip_idle_time()
            yield from self._arrive()
            num_preemptions = self.num_preemptions
            yield from self._grow()
            if self.num_preemptions == num_preemptions:  # after a preemption nothing is left for newcomers
                yield from self._admit()
            yield from self._emit("step")
            yield from self._finish()
            self._step += 1

    def _skip_idle_time(self) -> None:
        if not self._waiting and not self._running:
            self._step = max(self._step, math.ceil(self._arriving[0].request.arrival / self._step_time))

    def _arrive(self) -> Iterator[Frame]:
        while self._arriving and self._arriving[0].request.arrival <= self._step * self._step_time:
            live = self._arriving.popleft()
            self._waiting.append(live)
            yield from self._emit("arrive", live)

    def _grow(self) -> Iterator[Frame]:
        index = 0
        while index < len(self._running):
            live = self._running[index]
            if (yield from self._append(live)):
                index += 1

    def _append(self, live: _Live) -> Generator[Frame, None, bool]:
        """Write the last sampled token, sample the next. False: `live` had to go itself."""
        while not self.policy.append(live.request.request_id):
            victim = self._running[-1]
            assert len(self._running) > 1, (
                f"policy {self.policy.name} refuses to grow a request that is alone"
            )
            yield from self._preempt(victim)
            if victim is live:
                return False
        live.num_sampled += 1
        yield from self._emit("append", live)
        return True

    def _preempt(self, victim: _Live) -> Iterator[Frame]:
        self._running.remove(victim)
        self.policy.release(victim.request.request_id)
        self._waiting.appendleft(victim)
        self.num_preemptions += 1
        self.num_recomputed_tokens += victim.num_tokens - 1  # its last token was not written yet
        yield from self._emit("preempt", victim)

    def _admit(self) -> Iterator[Frame]:
        while self._waiting and len(self._running) < self._max_num_seqs:
            live = self._waiting[0]
            if not self.policy.admit(live.request, live.num_tokens):
                assert self._running, (
                    f"policy {self.policy.name} refuses a request although nobody holds memory"
                )
                return
            self._running.append(self._waiting.popleft())
            live.num_sampled += 1
            yield from self._emit("admit", live)

    def _finish(self) -> Iterator[Frame]:
        for live in [live for live in self._running if live.is_finished]:
            self._running.remove(live)
            self.policy.release(live.request.request_id)
            yield from self._emit("finish", live)

    def _emit(self, event: str, live: _Live | None = None) -> Sequence[Frame]:
        """The frame of an event, or nothing when nobody asked for such events."""
        if event not in self._events:
            return ()
        request_id = None if live is None else live.request.request_id
        has_layout = self._keep_layout is not None and self._keep_layout(self._step, event)
        layout = tuple(self.policy.layout()) if has_layout else None
        usage = self.policy.usage(self._head())
        return (Frame(self._step, event, request_id, usage, len(self._running), len(self._waiting), layout),)

    def _head(self) -> tuple[TraceRequest, int] | None:
        """Who waits for memory (and not merely for a seat), with the tokens it would begin with."""
        if not self._waiting or len(self._running) >= self._max_num_seqs:
            return None
        return self._waiting[0].request, self._waiting[0].num_tokens


def simulate_memory(
    trace: Trace,
    policy: MemoryPolicy,
    *,
    step_time: float = 0.05,
    max_num_seqs: int | None = None,
    events: Collection[str] = EVENTS,
    keep_layout: KeepLayout | None = None,
) -> Iterator[Frame]:
    """Play `trace` against an empty `policy`.

    Args:
        trace: who comes when, and how long.
        policy: who lies where; it is changed, and empty again at the end.
        step_time: seconds of the trace's clock per step; only matters for arrivals.
        max_num_seqs: requests that run at the same time; None = as many as memory holds.
        events: the kinds of events that shall give a frame.
        keep_layout: which of these frames carry the layout, as pictures need it; None = no frame.

    Raises:
        ValueError: see `MemorySimulator`.
    """
    simulator = MemorySimulator(
        trace, policy, step_time=step_time, max_num_seqs=max_num_seqs, events=events, keep_layout=keep_layout
    )
    return simulator.frames()
