"""Who says what when: a row for each rank, a bar for each message, and between two messages the rank computes.

Times are given. They are measured, or `in_order` makes them: then every stretch of computing takes one unit and every
message one, and what is longer was spent waiting. So the same trace gives the same picture on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, arrow_down, group, label, line, number, rect
from minivllm.viz.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION

WIDTH, LEFT, MARGIN, ROW, BAR = 840, 76, 16, 46, 26
SPAN = WIDTH - LEFT - MARGIN
STYLES = {  # kind -> colour, letter, what it says
    "all_reduce": (ORANGE, "R", "all-reduce: sum over ranks"),
    "all_gather": (PURPLE, "G", "all-gather: side by side"),
    "send": (GREEN, "s", "send"),
    "receive": (VERMILION, "w", "wait and receive"),
}


@dataclass(frozen=True)
class Call:
    """One message as one rank saw it."""

    kind: str  # a key of STYLES
    num_bytes: int
    start: float
    end: float


@dataclass(frozen=True)
class Said:
    """A message without a time."""

    kind: str
    num_bytes: int


def in_order(said: Sequence[Sequence[Said]], tensor: int) -> list[list[Call]]:
    """Times for the messages of each rank, from nothing but their order.

    Args:
        said: of each rank, in its order. `tensor` neighbouring ranks form a group, and a rank sends to rank + tensor.
        tensor: ranks of a group.

    Raises:
        ValueError: somebody would wait for ever.
    """
    calls: list[list[Call]] = [[] for _ in said]
    while any(len(done) < len(all_) for done, all_ in zip(calls, said, strict=True)):
        before = sum(map(len, calls))
        for rank in range(len(said)):
            _advance(rank, said, calls, tensor)
        if sum(map(len, calls)) == before:
            stuck = [rank for rank, done in enumerate(calls) if len(done) < len(said[rank])]
            raise ValueError(f"ranks {stuck} wait for messages that nobody sends")
    return calls


def _advance(rank: int, said: Sequence[Sequence[Said]], calls: list[list[Call]], tensor: int) -> None:
    """Let a rank's next message happen, if its partners are there."""
    if len(calls[rank]) == len(said[rank]):
        return
    message, ready = said[rank][len(calls[rank])], _ready(calls[rank])
    if message.kind in ("all_reduce", "all_gather"):
        group_of = range(rank // tensor * tensor, rank // tensor * tensor + tensor)
        at = len(calls[rank])
        if any(len(calls[one]) != at or len(said[one]) == at for one in group_of):
            return
        end = max(_ready(calls[one]) for one in group_of) + 1
        for one in group_of:
            calls[one].append(Call(message.kind, message.num_bytes, _ready(calls[one]), end))
    elif message.kind == "receive":
        arrived = [call.end for call in calls[rank - tensor] if call.kind == "send"]
        which = sum(call.kind == "receive" for call in calls[rank])
        if which < len(arrived):
            ready = calls[rank][-1].end if calls[rank] else 0.0  # it has nothing to compute before
            calls[rank].append(Call("receive", message.num_bytes, ready, max(ready, arrived[which]) + 0.5))
    else:
        calls[rank].append(Call(message.kind, message.num_bytes, ready, ready + 1))


def _ready(calls: Sequence[Call]) -> float:
    """When a rank has computed what it says next."""
    return (calls[-1].end if calls else 0.0) + 1


def draw_timeline(calls: Sequence[Sequence[Call]], tensor: int, unit: str = "") -> Drawing:
    """A row for each rank; `tensor` ranks form a group. `unit`: of the times, which begin at 0; "": none is shown."""
    end = max((call.end for row in calls for call in row), default=1.0) + (0 if unit else 1)
    height = MARGIN + len(calls) * ROW
    shapes = []
    for rank, row in enumerate(calls):
        y = MARGIN + rank * ROW
        shapes.append(label(MARGIN, y + 18, f"rank {rank}"))
        shapes.append(rect(LEFT, y, SPAN, BAR, f'fill="{GREY}"', radius=2))
        shapes += _computing(row, y, end)
        shapes += [_bar(call, y, end) for call in row]
    shapes += _hops(calls, tensor, end)
    if unit:
        shapes.append(line(LEFT, height, LEFT + SPAN, height))
        for share in (0.0, 0.5, 1.0):
            anchor = ("start", "middle", "end")[round(2 * share)]
            text = f"{number(share * end)} {unit}"
            shapes.append(
                label(LEFT + share * SPAN, height + 15, text, 'class="mv-soft"', size=11, anchor=anchor)
            )
    shapes += _legend(height + 36)
    return Drawing(WIDTH, height + 62, tuple(shapes), describe(calls), to_text(calls))


def describe(calls: Sequence[Sequence[Call]]) -> str:
    """One sentence with the counts of each rank."""
    told = []
    for rank, row in enumerate(calls):
        kinds = [
            f"{sum(c.kind == kind for c in row)} {kind}"
            for kind in STYLES
            if any(c.kind == kind for c in row)
        ]
        told.append(f"rank {rank}: {', '.join(kinds) or 'silent'}, {sum(c.num_bytes for c in row):,} bytes")
    return "; ".join(told)


def to_text(calls: Sequence[Sequence[Call]]) -> str:
    """A line for each rank, a letter for each message in its order."""
    rows = [f"rank {rank} {''.join(STYLES[call.kind][1] for call in row)}" for rank, row in enumerate(calls)]
    legend = ", ".join(f"{letter} = {says}" for _, letter, says in STYLES.values())
    return "\n".join([*rows, describe(calls), legend])


def _x(time: float, end: float) -> float:
    return LEFT + SPAN * time / end


def _computing(row: Sequence[Call], y: float, end: float) -> list[str]:
    """The stretches between messages."""
    shapes, start = [], 0.0
    for call in row:
        if call.start > start:
            width = max(0.5, _x(call.start, end) - _x(start, end))
            shapes.append(rect(_x(start, end), y, width, BAR, f'fill="{BLUE}"'))
        start = call.end
    if row and row[-1].kind != "send" and start < end:  # a stage that has sent has nothing left to do
        shapes.append(rect(_x(start, end), y, _x(end, end) - _x(start, end), BAR, f'fill="{BLUE}"'))
    return shapes


def _bar(call: Call, y: float, end: float) -> str:
    color, letter, _ = STYLES[call.kind]
    x, width = _x(call.start, end), max(1.5, _x(call.end, end) - _x(call.start, end))
    shapes = [rect(x, y, width, BAR, f'fill="{color}" stroke="{BLACK}" stroke-width=".5"')]
    if width >= 11:
        shapes.append(label(x + width / 2, y + 18, letter, f'fill="{BLACK}"', size=11, anchor="middle"))
    return group(shapes)


def _hops(calls: Sequence[Sequence[Call]], tensor: int, end: float) -> list[str]:
    """An arrow from each send to the receive that it ends."""
    shapes = []
    for rank, row in enumerate(calls[: len(calls) - tensor]):
        sends = [call for call in row if call.kind == "send"]
        receives = [call for call in calls[rank + tensor] if call.kind == "receive"]
        for sent, received in zip(sends, receives, strict=False):
            x1, x2 = _x(sent.end, end), _x(received.end, end)
            shapes.append(arrow_down(x1, MARGIN + rank * ROW + BAR, x2, MARGIN + (rank + tensor) * ROW))
    return shapes


def _legend(y: float) -> list[str]:
    shapes, x = [], float(MARGIN)
    entries = [(BLUE, "", "computes"), *STYLES.values()]
    for color, letter, says in entries:
        shapes.append(rect(x, y - 12, 15, 15, f'fill="{color}"', radius=2))
        shapes.append(label(x + 7.5, y, letter, f'fill="{BLACK}"', size=11, anchor="middle"))
        shapes.append(label(x + 21, y, says, size=12))
        x += 21 + 6.3 * len(says) + 20
    return shapes
