"""What ranks say to one another, counted: how many messages, how many bytes, how long.

Only blocking transports can be timed like this. On a CPU every call returns when it is done; on a GPU it returns when
it is queued, and the seconds mean nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

MAX_EVENTS = 10_000  # of a trace: enough for a lesson, and bounded


@dataclass(frozen=True)
class CommEvent:
    """One call as one rank saw it. Times are of CLOCK_MONOTONIC, so ranks on one machine share the clock."""

    kind: str  # all_reduce, all_gather, send, receive
    num_bytes: int  # of the tensor handed in (receive: handed out)
    start: float
    end: float


@dataclass
class CommLog:
    """Totals since the last `clear`, and the last events while `is_tracing`."""

    count: dict[str, int] = field(default_factory=dict)
    num_bytes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    is_tracing: bool = False
    events: deque[CommEvent] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))

    @contextmanager
    def measure(self, kind: str, tensor: Tensor) -> Iterator[None]:
        """Count one call around its body."""
        start = time.monotonic()
        yield
        end = time.monotonic()
        num_bytes = tensor.numel() * tensor.element_size()
        self.count[kind] = self.count.get(kind, 0) + 1
        self.num_bytes[kind] = self.num_bytes.get(kind, 0) + num_bytes
        self.seconds[kind] = self.seconds.get(kind, 0.0) + end - start
        if self.is_tracing:
            self.events.append(CommEvent(kind, num_bytes, start, end))

    def clear(self) -> None:
        """Begin to count anew."""
        for totals in (self.count, self.num_bytes, self.seconds, self.events):
            totals.clear()
