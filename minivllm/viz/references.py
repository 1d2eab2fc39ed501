"""Who points at which block: block tables on the left, blocks with their reference counts on the right, arrows between.

One recording, one frame per event: a fork adds arrows and no block, a write into a shared block adds a block and moves
one arrow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from minivllm.events import Copy, Event, EventLog, State
from minivllm.viz.block_map import COLORS, LETTERS
from minivllm.viz.drawing import Drawing, arrow, group, label, rect
from minivllm.viz.frames import requests_of, tell, touched_by
from minivllm.viz.palette import BLACK, GREY, VERMILION, ink_on
from minivllm.viz.stepper import Frame, Stepper

WIDTH, CELL, GAP, MARGIN, ROW = 840, 30, 6, 16, 46
LEFT, RIGHT = 110, 640  # where tables and blocks begin
BLOCK_WIDTH, BLOCK_HEIGHT = 110, 30
LANES = ROW - CELL - 2  # the space below a table, for its arrows
STORY = ("hit", "alloc", "write", "fork", "copy", "free", "trim")


def reference_stepper(
    log: EventLog,
    title: str = "Who points at which block",
    *,
    kinds: Collection[str] = STORY,
    start: int = 0,
) -> Stepper:
    """The story of a recording, one frame for each event of these kinds."""
    order = requests_of(log)
    frames = [
        Frame(
            draw_references(state, order, log.num_blocks, log.block_size, event),
            f"Step {event.step}: {tell(event)}.",
        )
        for event, state in log.replay()
        if event.kind in kinds
    ]
    return Stepper(frames, title, start)


def draw_references(
    state: State, order: Sequence[str], num_blocks: int, block_size: int, event: Event | None = None
) -> Drawing:
    """All tables and blocks of a moment; what `event` touched is marked.

    Args:
        state: who holds what.
        order: all requests of the story: each keeps its row and colour.
        num_blocks: of the memory, the null block included; that one is not drawn.
        block_size: tokens of a block.
        event: what has just happened.
    """
    touched = touched_by([event]) if event else set()
    counts = Counter(block_id for table in state.tables.values() for block_id in table if block_id)
    shapes = [label(LEFT, MARGIN + 10, "block tables", 'class="mv-soft"')]
    shapes.append(label(RIGHT, MARGIN + 10, "blocks, and references to each", 'class="mv-soft"'))
    for row, request_id in enumerate(order):
        shapes += _table(
            row, request_id, state.tables.get(request_id, []), state.num_tokens.get(request_id, 0)
        )
    shapes += [_block(i, counts[i], i in touched) for i in range(1, num_blocks)]
    if isinstance(event, Copy):
        shapes.append(_copy_arrow(event))
    height = max(len(order) * ROW, (num_blocks - 1) * BLOCK_HEIGHT)
    return Drawing(
        WIDTH, MARGIN * 2 + 20 + height, tuple(shapes), describe(state), to_text(state, block_size)
    )


def describe(state: State) -> str:
    """One sentence with the numbers of the picture."""
    counts = Counter(block_id for table in state.tables.values() for block_id in table if block_id)
    shared = [f"block {block_id} by {count}" for block_id, count in sorted(counts.items()) if count > 1]
    tables = [f"{request_id} holds blocks {table}" for request_id, table in state.tables.items()]
    return f"{'; '.join(tables) or 'nobody holds a block'}. Shared: {', '.join(shared) or 'none'}"


def to_text(state: State, block_size: int) -> str:
    """A line for each table, then the reference counts."""
    counts = Counter(block_id for table in state.tables.values() for block_id in table if block_id)
    width = max(map(len, state.tables), default=0)
    lines = [
        f"{request_id.ljust(width)} -> {table}, {state.num_tokens.get(request_id, 0)} tokens"
        for request_id, table in state.tables.items()
    ]
    references = ", ".join(f"{block_id}: {count}" for block_id, count in sorted(counts.items()))
    return "\n".join(
        [*lines, f"references (block: count), {block_size} tokens a block: {references or 'none'}"]
    )


def _table(row: int, request_id: str, table: Sequence[int], num_tokens: int) -> list[str]:
    """A row of entries, and an arrow from each to its block."""
    y, color = MARGIN + 20 + row * ROW, COLORS[row % len(COLORS)]
    name = f"{LETTERS[row % len(LETTERS)]}: {request_id}"[:13]
    shapes = [
        label(MARGIN, y + 20, name),
        label(MARGIN, y + 34, f"{num_tokens} tokens", 'class="mv-soft"', size=11),
    ]
    ink = f'fill="{ink_on(color)}"'
    for index, block_id in enumerate(table):
        x = LEFT + index * (CELL + GAP)
        entry = [rect(x, y, CELL, CELL, f'fill="{color}"', radius=4)]
        entry.append(label(x + CELL / 2, y + 20, str(block_id), ink, anchor="middle"))
        shapes.append(group(entry))
        if block_id:
            end_x, end_y = _place(block_id)
            style = f'fill="none" stroke="{color}" stroke-width="2"'
            lane = LANES * (len(table) - index) / (len(table) + 1)  # arrows do not run on top of one another
            shapes.append(
                arrow(x + CELL / 2, y + CELL, end_x - 5, end_y + 9 + row * 4 % 12, style, down_first=lane)
            )
    return shapes


def _place(block_id: int) -> tuple[int, int]:
    return RIGHT, MARGIN + 20 + (block_id - 1) * BLOCK_HEIGHT


def _block(block_id: int, count: int, is_touched: bool) -> str:
    x, y = _place(block_id)
    height = BLOCK_HEIGHT - 6
    style = f'fill="{GREY}"' if count else f'fill="none" stroke="{GREY}" stroke-dasharray="3 3"'
    ink = f'fill="{BLACK}"' if count else 'class="mv-soft"'
    content = f"block {block_id}: " + (f"x{count}" if count else "free")
    shapes = [rect(x, y, BLOCK_WIDTH, height, style, radius=4), label(x + 10, y + 16, content, ink, size=12)]
    if is_touched:
        shapes.append(
            rect(x - 2, y - 2, BLOCK_WIDTH + 4, height + 4, 'class="mv-line" stroke-width="3"', radius=6)
        )
    return group(shapes)


def _copy_arrow(event: Copy) -> str:
    """A bow on the right, from the shared block to its copy."""
    (x, y1), (_, y2) = _place(event.source), _place(event.target)
    right, top, drop = x + BLOCK_WIDTH + 4, y1 + 12, y2 - y1
    bow = f"M{right} {top}c45 0 45 {drop} 0 {drop}m7 -5l-7 5l7 5"
    text = label(right + 42, top + drop / 2 + 4, "copy", size=11)
    style = f'fill="none" stroke="{VERMILION}" stroke-width="3"'
    return group([f'<path d="{bow}" {style}/>', text])
