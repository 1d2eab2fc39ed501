"""From an event log to the frames of a story: what happened, said in a sentence, and the blocks after it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

from minivllm.events import (
    Add,
    Alloc,
    Cache,
    Copy,
    Draft,
    Event,
    EventLog,
    Evict,
    Finish,
    Fork,
    Free,
    Hit,
    Preempt,
    Queue,
    Sample,
    Schedule,
    State,
    Trim,
    Write,
)
from minivllm.viz.block_map import draw
from minivllm.viz.stepper import Frame, Stepper

BLOCK_EVENTS = ("hit", "alloc", "write", "fork", "copy", "cache", "evict", "free", "trim")
TOLD = (
    "add",
    "hit",
    "alloc",
    "fork",
    "copy",
    "evict",
    "free",
    "draft",
    "trim",
    "preempt",
    "finish",
)  # worth a word in a step's caption


def tell(event: Event) -> str:
    """One event in a sentence."""
    match event:
        case Add(request_id=request_id, num_tokens=count):
            return f"request {request_id} arrives with {_count(count, 'token')} and waits"
        case Hit(request_id=request_id, block_ids=ids):
            return f"{request_id} finds its prefix in {_blocks(ids)}: nothing to compute there"
        case Alloc(request_id=request_id, block_ids=ids):
            return f"{request_id} gets {_blocks(ids)} from the free queue"
        case Write(request_id=request_id, start=start, stop=stop):
            where = f"position {start}" if stop == start + 1 else f"positions {start} to {stop - 1}"
            return f"{request_id} writes keys and values of {where}"
        case Fork(request_id=request_id, parent_id=parent, block_ids=ids):
            return f"{request_id} forks from {parent} and shares {_blocks(ids)}: nothing is copied"
        case Copy(request_id=request_id, source=source, target=target):
            return f"{request_id} must write into block {source}, which is shared: it is copied to block {target} first"
        case Cache(request_id=request_id, block_ids=ids):
            found = "it" if len(ids) == 1 else "them"
            return f"{_blocks(ids)} of {request_id}: full, so the prefix cache can find {found}"
        case Evict(block_ids=ids):
            return f"the prefix cache forgets {_blocks(ids)}"
        case Free(request_id=request_id, block_ids=ids):
            return f"{request_id} gives back {_blocks(ids)}"
        case Draft(request_id=request_id, token_ids=ids):
            return f"{_count(len(ids), 'drafted token')} of {request_id} {'is' if len(ids) == 1 else 'are'} verified"
        case Trim(request_id=request_id, num_tokens=count, block_ids=ids):
            given = f", and gives back {_blocks(ids)}" if ids else ""
            return f"{request_id} goes back to {_count(count, 'computed token')}{given}"
        case Queue(block_ids=ids):
            return f"the free queue: {', '.join(map(str, ids)) or 'empty'}"
        case Schedule(num_scheduled_tokens=counts, budget=budget):
            total = sum(counts.values())
            return f"{total} of at most {budget} tokens are scheduled for {_count(len(counts), 'request')}"
        case Preempt(request_id=request_id):
            return f"{request_id} is preempted and waits again"
        case Sample(request_id=request_id, token_ids=ids):
            return f"{request_id} samples {_count(len(ids), 'token')}: {', '.join(map(str, ids))}"
        case Finish(request_id=request_id, reason=reason):
            return f"{request_id} is finished ({reason})"
    return event.kind


def steps(log: EventLog) -> Iterator[tuple[int, list[Event], State]]:
    """The events of each engine step, and the state after it. The state goes on changing: copy what you keep."""
    state = log.base.copy()
    for step, group in groupby(log, key=lambda event: event.step):
        events = list(group)
        for event in events:
            state.apply(event)
        yield step, events, state


def requests_of(log: EventLog) -> list[str]:
    """Everybody who ever held a block, in order of appearance."""
    seen = dict.fromkeys(log.base.tables)
    for event in log:
        if isinstance(event, Hit | Alloc | Fork):
            seen.setdefault(event.request_id)
    return list(seen)


def touched_by(events: Iterable[Event]) -> set[int]:
    """The blocks that something happened to."""
    touched: set[int] = set()
    for event in events:
        match event:
            case Hit() | Alloc() | Fork() | Cache() | Evict() | Free() | Trim():
                touched.update(event.block_ids)
            case Copy():
                touched.update((event.source, event.target))
    return touched


def block_map_stepper(
    log: EventLog,
    title: str = "The blocks of the KV cache over time",
    *,
    kinds: Collection[str] = BLOCK_EVENTS,
    by_step: bool = False,
    columns: int = 16,
    start: int = 0,
) -> Stepper:
    """The block map over time: a frame for each event of these kinds, or one for each engine step."""
    order = requests_of(log)
    most = max((len(state.tables) for _, state in log.replay()), default=0)

    def frame(events: list[Event], state: State, caption: str) -> Frame:
        picture = draw(
            state.block_map(log.num_blocks, log.block_size),
            columns=columns,
            order=order,
            touched=touched_by(events),
            num_legend_lines=most,
        )
        return Frame(picture, caption)

    if by_step:
        frames = [frame(events, state, caption_of(step, events)) for step, events, state in steps(log)]
    else:
        frames = [
            frame([event], state, f"Step {event.step}: {tell(event)}.")
            for event, state in log.replay()
            if event.kind in kinds
        ]
    return Stepper(frames, title, start)


def caption_of(step: int, events: Iterable[Event]) -> str:
    """A step in a sentence: what changed, not what goes on as before."""
    told = [tell(event) for event in events if event.kind in TOLD]
    return f"Step {step}: {'; '.join(told) or 'everybody writes into blocks that they hold'}."


def _blocks(ids: Collection[int]) -> str:
    return f"block{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
