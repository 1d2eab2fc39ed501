"""The event log: what happened to requests and blocks, in order. The one source of every picture of the engine.

The parts know nothing of it: `minivllm/recorder.py` stands around them and writes down what it sees change. So a log of
a learner's allocator is as true as one of ours, and an engine that nobody records pays nothing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from minivllm.outputs import BlockMap


@dataclass(frozen=True)
class Event:
    """Something that happened in engine step `step`; steps count from 1, 0 is before the first."""

    step: int

    @property
    def kind(self) -> str:
        """The name of the event's class in lower case."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Add(Event):
    """A request joined the waiting queue with a prompt of `num_tokens` tokens."""

    request_id: str
    num_tokens: int


@dataclass(frozen=True)
class Hit(Event):
    """A request begins with blocks that the prefix cache had: in logical order, after what it held."""

    request_id: str
    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class Alloc(Event):
    """A request got blocks from the free queue: in logical order, after what it held."""

    request_id: str
    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class Write(Event):
    """Positions [start, stop) of a request get their keys and values in this step."""

    request_id: str
    start: int
    stop: int


@dataclass(frozen=True)
class Fork(Event):
    """`request_id` now shares the blocks of the first `num_tokens` tokens of `parent_id`. Nothing was copied."""

    request_id: str
    parent_id: str
    block_ids: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True)
class Copy(Event):
    """Copy-on-write: in the table of `request_id` a fresh block, `target`, took the place of the shared `source`."""

    request_id: str
    source: int
    target: int


@dataclass(frozen=True)
class Cache(Event):
    """Full blocks of a request can be found by the prefix cache from now on."""

    request_id: str
    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class Evict(Event):
    """The prefix cache forgot blocks, because they are needed for something else."""

    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class Free(Event):
    """A request gave back one reference to each of these blocks, in this order."""

    request_id: str
    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class Draft(Event):
    """Tokens that somebody has guessed for a request; this step computes them like any others, to verify them."""

    request_id: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Trim(Event):
    """Only a request's first `num_tokens` tokens count: it gave back the blocks behind them, in this order.

    Behind them were rejected drafts, and what a draft model has written ahead.
    """

    request_id: str
    num_tokens: int
    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class Queue(Event):
    """The free queue after a change, the next victim first. Recorded only on demand, as it is long."""

    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class Schedule(Event):
    """The scheduler has decided a step: how many tokens each request computes, out of `budget`."""

    num_scheduled_tokens: dict[str, int]
    num_computed_tokens: dict[str, int]  # before the step
    budget: int
    num_waiting: int  # requests that are left in the queue


@dataclass(frozen=True)
class Preempt(Event):
    """A running request lost its blocks, to make room for others, and waits again."""

    request_id: str


@dataclass(frozen=True)
class Sample(Event):
    """The model answered: new tokens of a request."""

    request_id: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Finish(Event):
    """A request is over; `reason` is the word that a client reads (stop, length, abort, error)."""

    request_id: str
    reason: str


KINDS: dict[str, type[Event]] = {
    kind.__name__.lower(): kind
    for kind in (
        Add,
        Hit,
        Alloc,
        Write,
        Fork,
        Copy,
        Cache,
        Evict,
        Free,
        Draft,
        Trim,
        Queue,
        Schedule,
        Preempt,
        Sample,
        Finish,
    )
}


@dataclass
class State:
    """What the events so far add up to: who holds which blocks, and what the prefix cache and the free queue hold."""

    tables: dict[str, list[int]] = field(default_factory=dict)  # request id -> blocks in logical order
    num_tokens: dict[str, int] = field(default_factory=dict)  # request id -> tokens written
    cached: set[int] = field(default_factory=set)
    queue: tuple[int, ...] = ()  # empty if the log has no Queue events

    def apply(self, event: Event) -> None:
        """Take in one more event."""
        match event:
            case Hit() | Alloc():
                self.tables.setdefault(event.request_id, []).extend(event.block_ids)
            case Write():
                self.num_tokens[event.request_id] = event.stop
            case Fork():
                self.tables[event.request_id] = list(event.block_ids)
                self.num_tokens[event.request_id] = event.num_tokens
            case Copy():
                table = self.tables[event.request_id]
                table[table.index(event.source)] = event.target
            case Free():
                self._free(event)
            case Trim():
                table = self.tables[event.request_id]
                del table[len(table) - len(event.block_ids) :]
                self.num_tokens[event.request_id] = event.num_tokens
            case Cache():
                self.cached.update(event.block_ids)
            case Evict():
                self.cached.difference_update(event.block_ids)
            case Queue():
                self.queue = event.block_ids

    def _free(self, event: Free) -> None:
        """A table that lost everything is gone; behind a sliding window the null block takes the place."""
        gone = set(event.block_ids)
        left = [0 if block_id in gone else block_id for block_id in self.tables[event.request_id]]
        if any(left):
            self.tables[event.request_id] = left
        else:
            del self.tables[event.request_id]
            self.num_tokens.pop(event.request_id, None)

    def block_map(self, num_blocks: int, block_size: int) -> BlockMap:
        """A snapshot to draw."""
        return BlockMap(
            num_blocks=num_blocks,
            block_size=block_size,
            holders={request_id: tuple(table) for request_id, table in self.tables.items()},
            num_computed_tokens={
                request_id: self.num_tokens.get(request_id, 0) for request_id in self.tables
            },
            cached=frozenset(self.cached),
        )

    def copy(self) -> State:
        """A state of its own."""
        tables = {request_id: list(table) for request_id, table in self.tables.items()}
        return State(tables, dict(self.num_tokens), set(self.cached), self.queue)


class EventLog:
    """Events in order, with what a reader needs to know beside them.

    Args:
        num_blocks: of the KV cache, the null block included.
        block_size: tokens of a block.
        max_events: keep only so many, the latest (for a server); None = all. What is dropped is folded into `base`, so
            the rest can still be replayed.
    """

    def __init__(self, num_blocks: int, block_size: int, max_events: int | None = None) -> None:
        if max_events is not None and max_events < 1:
            raise ValueError(f"max_events must be at least 1, or None for no bound, not {max_events}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_events = max_events
        self.num_dropped = 0
        self.base = State()
        self._events: deque[Event] = deque()

    def append(self, event: Event) -> None:
        """One more event; a bounded log that is full drops its oldest."""
        if self.max_events is not None and len(self._events) == self.max_events:
            self.base.apply(self._events.popleft())
            self.num_dropped += 1
        self._events.append(event)

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def replay(self) -> Iterator[tuple[Event, State]]:
        """Every event with the state after it. The state is one object that goes on changing: copy what you keep."""
        state = self.base.copy()
        for event in self._events:
            state.apply(event)
            yield event, state

    def replay_copies(self) -> Iterator[tuple[Event, State]]:
        """The same, each state an object of its own."""
        for event, state in self.replay():
            yield event, state.copy()

    def to_json(self) -> str:
        """The whole log as JSON; `from_json` gives an equal one back."""
        head = {"num_blocks": self.num_blocks, "block_size": self.block_size, "max_events": self.max_events}
        base = asdict(self.base) | {"cached": sorted(self.base.cached)}
        events = [{"kind": event.kind, **asdict(event)} for event in self._events]
        return json.dumps({**head, "num_dropped": self.num_dropped, "base": base, "events": events})

    @staticmethod
    def from_json(text: str) -> EventLog:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is no log; the sentence says where.
        """
        data = json.loads(text)
        try:
            log = EventLog(data["num_blocks"], data["block_size"], data["max_events"])
            base = data["base"]
            log.base = State(base["tables"], base["num_tokens"], set(base["cached"]), tuple(base["queue"]))
            log.num_dropped = data["num_dropped"]
            log._events.extend(map(_event, data["events"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no event log: {error!r}") from error
        return log


def _event(data: dict[str, Any]) -> Event:
    kind = data.pop("kind")
    if kind not in KINDS:
        raise ValueError(f"an event's kind must be one of {', '.join(KINDS)}, not {kind!r}")
    wanted = {item.name for item in fields(KINDS[kind])}
    if set(data) != wanted:
        raise ValueError(f"an event of kind {kind!r} has the fields {sorted(wanted)}, not {sorted(data)}")
    make: Callable[..., Event] = KINDS[kind]
    return make(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})
