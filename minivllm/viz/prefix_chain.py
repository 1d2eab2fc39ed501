"""Prefix caching as a picture: each request's chain of blocks, and the free queue, whose first block goes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from minivllm.events import Event, EventLog, State
from minivllm.viz.block_map import COLORS, LETTERS
from minivllm.viz.drawing import Drawing, arrow, group, label, rect
from minivllm.viz.frames import requests_of, tell, touched_by
from minivllm.viz.palette import GREY, ink_on
from minivllm.viz.stepper import Frame, Stepper

WIDTH, LEFT, MARGIN, CELL, GAP, ROW = 840, 130, 16, 44, 18, 56
STORY = ("hit", "alloc", "fork", "copy", "cache", "evict", "free", "trim")


def prefix_stepper(
    log: EventLog,
    title: str = "Chains of blocks, and the eviction queue",
    *,
    kinds: Collection[str] = STORY,
    start: int = 0,
) -> Stepper:
    """The story of a recording made `with_queue=True`, one frame for each event of these kinds.

    Raises:
        ValueError: the log has no free queue.
    """
    order = requests_of(log)
    events = list(log.replay_copies())
    if not any(state.queue for _, state in events):
        raise ValueError("this log has no free queue: record it with_queue=True")
    frames = []
    for index, (event, state) in enumerate(events):
        if event.kind not in kinds:
            continue
        after = events[index + 1] if index + 1 < len(events) else None
        if after and after[0].kind == "queue":  # the queue is recorded right after what changed it
            state.queue = after[1].queue
        drawing = draw_chains(state, order, log.num_blocks, event)
        frames.append(Frame(drawing, f"Step {event.step}: {tell(event)}."))
    return Stepper(frames, title, start)


def draw_chains(state: State, order: Sequence[str], num_blocks: int, event: Event | None = None) -> Drawing:
    """A row for each request, a dot on each block that the prefix cache can find, and the free queue below.

    Args:
        state: who holds what.
        order: all requests of the story: each keeps its row and colour.
        num_blocks: of the memory: the queue gets room for all of them.
        event: what has just happened; the blocks that it touched are marked.
    """
    touched = touched_by([event]) if event else set()
    counts = Counter(block_id for table in state.tables.values() for block_id in table if block_id)
    shapes = []
    for row, request_id in enumerate(order):
        y, color = MARGIN + row * ROW, COLORS[row % len(COLORS)]
        shapes.append(label(MARGIN, y + 26, f"{LETTERS[row % len(LETTERS)]}: {request_id}"[:15]))
        for index, block_id in enumerate(state.tables.get(request_id, [])):
            x = LEFT + index * (CELL + GAP)
            note = f"x{counts[block_id]}" if counts[block_id] > 1 else ""
            shapes.append(_block(x, y, block_id, color, note, block_id in state.cached, block_id in touched))
            if index:
                shapes.append(
                    arrow(x - 2, y + CELL / 2, x - GAP + 2, y + CELL / 2)
                )  # a hash covers its parent's
    top = MARGIN + len(order) * ROW + 8
    shapes.append(label(MARGIN, top + 20, "free queue"))
    shapes.append(label(MARGIN, top + 36, "first out: left", 'class="mv-soft"', size=11))
    per_row = (WIDTH - LEFT - MARGIN) // (CELL + 6)
    for index, block_id in enumerate(_free_queue(state)):
        x, y = LEFT + index % per_row * (CELL + 6), top + index // per_row * (CELL + 8)
        shapes.append(_block(x, y, block_id, GREY, "", block_id in state.cached, block_id in touched))
    bottom = top + -(-(num_blocks - 1) // per_row) * (CELL + 8)
    dot = f'<circle cx="{LEFT + 6}" cy="{bottom + 12}" r="4" class="mv-ink"/>'
    note = (
        "the prefix cache can find this block; an arrow leads to the block whose hash is part of this one's"
    )
    shapes.append(group([dot, label(LEFT + 18, bottom + 17, note, size=12)]))
    return Drawing(WIDTH, bottom + 34, tuple(shapes), describe(state), to_text(state))


def describe(state: State) -> str:
    """One sentence with the numbers of the picture."""
    queue = _free_queue(state)
    kept = [block_id for block_id in queue if block_id in state.cached]
    return (
        f"{len(state.tables)} requests; {len(state.cached)} blocks can be found by the prefix cache, "
        f"{len(kept)} of them are free; the free queue begins with {queue[:8]}"
    )


def to_text(state: State) -> str:
    """A line for each request, and the free queue; + marks a block that the prefix cache can find."""

    def name(block_id: int) -> str:
        return f"{block_id}{'+' if block_id in state.cached else ''}"

    lines = [f"{i}: {' <- '.join(map(name, table))}" for i, table in state.tables.items()]
    return "\n".join([*lines, f"free queue: {' '.join(map(name, _free_queue(state)))}   (+ = can be found)"])


def _free_queue(state: State) -> list[int]:
    """The queue without what the last event took out of it: the queue itself is recorded one event later."""
    held = {block_id for table in state.tables.values() for block_id in table}
    return [block_id for block_id in state.queue if block_id not in held]


def _block(
    x: float, y: float, block_id: int, color: str, note: str, is_cached: bool, is_touched: bool
) -> str:
    ink = f'fill="{ink_on(color)}"'
    shapes = [rect(x, y, CELL, CELL - 4, f'fill="{color}"', radius=5)]
    shapes.append(label(x + CELL / 2, y + 25, str(block_id), ink, size=14, anchor="middle"))
    if note:
        shapes.append(label(x + 4, y + CELL - 8, note, ink, size=10))
    if is_cached:
        shapes.append(f'<circle cx="{x + CELL - 7:.0f}" cy="{y + 7:.0f}" r="4" {ink}/>')
    if is_touched:
        shapes.append(rect(x - 2, y - 2, CELL + 4, CELL, 'class="mv-line" stroke-width="3"', radius=7))
    return group(shapes)
