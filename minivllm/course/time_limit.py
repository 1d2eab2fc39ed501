"""A limit for code that may never end: a learner's loop, or a mutant's.

It counts processor time of this process, so a busy machine does not make good code late. Where the system has no such
timer (Windows) there is no limit, and `python -m minivllm.course check` ends the whole process instead. That limit is
in real time, so `on_this_machine` stretches it.
"""

from __future__ import annotations

import os
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minivllm.course.grading import Implementation

SECONDS_PER_LINE = 2.0  # of a history; lines take microseconds
SECONDS_PER_TEST = 60.0
TICK = 0.25


def on_this_machine(seconds: float) -> float:
    """A limit in real time: longer where more wants to run than there are processors."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return seconds * max(1.0, load / (os.cpu_count() or 1))


class NeverEnds(BaseException):
    """Raised in code whose time is up. No Exception: neither a learner's `except` nor hypothesis keeps it."""


@contextmanager
def time_limit(implementation: Implementation) -> Iterator[None]:
    """Raise NeverEnds in the body when one line of its history, or all of it, takes too long."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    watch = _Watch(implementation)
    previous = signal.signal(signal.SIGVTALRM, watch.tick)
    signal.setitimer(signal.ITIMER_VIRTUAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


class _Watch:
    """Looks at each tick whether the history has moved on."""

    def __init__(self, implementation: Implementation) -> None:
        self.implementation = implementation
        self.seen: object = None
        self.ticks_on_line = 0
        self.ticks = 0

    def tick(self, signal_number: int, frame: types.FrameType | None) -> None:
        history = self.implementation.history_in_progress
        now = history and (id(history), len(history.program))
        self.ticks += 1
        self.ticks_on_line = (
            self.ticks_on_line + 1 if now == self.seen and history and history.is_running else 0
        )
        self.seen = now
        if self.ticks_on_line * TICK >= SECONDS_PER_LINE or self.ticks * TICK >= SECONDS_PER_TEST:
            raise NeverEnds(f"more than {self.ticks * TICK:.0f} seconds of processor time")
