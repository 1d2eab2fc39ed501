"""From a token to its slot: the positions that a request sees, its block table, and the memory, one below the other.

The slots are given, not computed here: the picture shows what somebody's code answers, right or wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minivllm.viz.drawing import Drawing, arrow_down, group, label, rect
from minivllm.viz.palette import BLACK, BLUE, GREY, ORANGE, WHITE
from minivllm.viz.stepper import Frame, Stepper

WIDTH, CELL, GAP, MARGIN, ROW = 24, 28, 8, 16, 62
LEFT = 130  # where cells begin, right of the row's name
PAGE_WIDTH = 840
TOKEN, CHOSEN = f'fill="{BLUE}"', f'fill="{ORANGE}" stroke="{BLACK}" stroke-width="2"'
EMPTY, TAKEN = f'fill="{GREY}"', f'fill="{GREY}" stroke="{BLACK}" stroke-dasharray="2 2"'


def draw_slots(
    slots: Sequence[int],
    position: int,
    *,
    block_ids: Sequence[int],
    block_size: int,
    num_blocks: int,
    taken: Mapping[int, str] | None = None,
) -> Drawing:
    """One request's tokens in the memory, with one position followed all the way.

    Args:
        slots: the slot of each position, as the code under study has it; what is out of memory is left out.
        position: the token to follow.
        block_ids: the request's block table.
        block_size: tokens of a block.
        num_blocks: of the memory, the null block included.
        taken: block id -> letter of somebody else who holds it.
    """
    at = _MemoryGrid(block_size, num_blocks)
    logical, slot = position // block_size, slots[position]
    x_token, x_entry = _x(position, block_size), LEFT + logical * 2 * CELL
    shapes = [label(MARGIN, MARGIN + 18, "positions"), label(MARGIN, MARGIN + ROW + 18, "block table")]
    shapes += [
        label(MARGIN, MARGIN + 2 * ROW + 18, "memory"),
        label(MARGIN, MARGIN + 2 * ROW + 34, "(slots)"),
    ]
    for index in range(len(slots)):
        style, ink = (CHOSEN, BLACK) if index == position else (TOKEN, WHITE)
        shapes.append(_cell(_x(index, block_size), MARGIN, WIDTH, str(index), style, ink, go=index))
    for index, block_id in enumerate(block_ids):
        style = CHOSEN if index == logical else EMPTY
        x, y = LEFT + index * 2 * CELL, MARGIN + ROW
        shapes.append(_cell(x, y, CELL + 8, str(block_id), style, BLACK))
        shapes.append(label(x - 4, y + 19, str(index), 'class="mv-soft"', size=11, anchor="end"))
    content = {where: index for index, where in enumerate(slots)}
    for where in range(num_blocks * block_size):
        shapes.append(
            at.slot(where, content.get(where), where == slot, (taken or {}).get(where // block_size))
        )
    shapes += [at.name(block_id) for block_id in range(num_blocks)]
    shapes.append(arrow_down(x_token + WIDTH / 2, MARGIN + CELL + 2, x_entry + CELL / 2, MARGIN + ROW - 3))
    if 0 <= slot < num_blocks * block_size:
        x, y = at.place(slot)
        shapes.append(arrow_down(x_entry + CELL / 2, MARGIN + ROW + CELL + 2, x + WIDTH / 2, y - 3))
    text = to_text(slots, block_size, num_blocks)
    told = explain(position, slot, block_ids, block_size)
    alt = f"{len(slots)} tokens in blocks {list(block_ids)} of {block_size}; {told}"
    return Drawing(PAGE_WIDTH, at.bottom + MARGIN, tuple(shapes), alt, text)


def explain(position: int, slot: int, block_ids: Sequence[int], block_size: int) -> str:
    """The way from a position to its slot in numbers; says so when the slot is another than the table's."""
    index, offset = divmod(position, block_size)
    way = (
        f"position {position}: logical block {position} // {block_size} = {index}, "
        f"offset {position} % {block_size} = {offset}"
    )
    if index >= len(block_ids):
        return f"{way}; the table has only {len(block_ids)} blocks, so slot {slot} cannot be right"
    block_id = block_ids[index]
    right = block_id * block_size + offset
    way += (
        f"; the table says physical block {block_id}, so slot {block_id} * {block_size} + {offset} = {right}"
    )
    return way if slot == right else f"{way}; but the code answers slot {slot}"


def slot_stepper(
    slots: Sequence[int],
    title: str = "Click a token, see its slot",
    *,
    block_ids: Sequence[int],
    block_size: int,
    num_blocks: int,
    taken: Mapping[int, str] | None = None,
    start: int = 0,
) -> Stepper:
    """One frame for each position; a click on a token goes to its frame. Arguments as in `draw_slots`."""

    def frame(position: int) -> Frame:
        drawing = draw_slots(
            slots, position, block_ids=block_ids, block_size=block_size, num_blocks=num_blocks, taken=taken
        )
        told = explain(position, slots[position], block_ids, block_size)
        return Frame(drawing, f"{told[0].upper()}{told[1:]}.")

    return Stepper([frame(position) for position in range(len(slots))], title, start)


def to_text(slots: Sequence[int], block_size: int, num_blocks: int) -> str:
    """A row for each block: the positions that lie in its slots, a dot where nothing of this request lies."""
    content = {where: str(index) for index, where in enumerate(slots)}
    width = max((len(text) for text in content.values()), default=1)
    rows = []
    for block_id in range(num_blocks):
        first = block_id * block_size
        cells = [content.get(where, ".").rjust(width) for where in range(first, first + block_size)]
        rows.append(f"block {block_id:>2}, slots {first:>3}-{first + block_size - 1:<3}  {' '.join(cells)}")
    return "\n".join(rows)


def _x(position: int, block_size: int) -> int:
    """The left edge of a position's cell: a gap stands between logical blocks."""
    return LEFT + position * WIDTH + position // block_size * GAP


def _cell(x: float, y: float, width: float, content: str, style: str, ink: str, go: int | None = None) -> str:
    middle = label(x + width / 2, y + 19, content, f'fill="{ink}"', size=12, anchor="middle")
    return group([rect(x, y, width - 2, CELL, style, radius=3), middle], go=go)


class _MemoryGrid:
    """Where slots are drawn: blocks side by side, in as many rows as the page needs."""

    def __init__(self, block_size: int, num_blocks: int) -> None:
        self.block_size = block_size
        self.block_width = block_size * WIDTH + GAP
        self.per_row = max(1, (PAGE_WIDTH - LEFT - MARGIN) // self.block_width)
        self.top = MARGIN + 2 * ROW
        self.bottom = self.top + -(-num_blocks // self.per_row) * (CELL + 36)

    def place(self, slot: int) -> tuple[int, int]:
        block_id, offset = divmod(slot, self.block_size)
        row, column = divmod(block_id, self.per_row)
        return LEFT + column * self.block_width + offset * WIDTH, self.top + row * (CELL + 36)

    def slot(self, slot: int, position: int | None, is_chosen: bool, owner: str | None) -> str:
        x, y = self.place(slot)
        if position is None:
            return _cell(x, y, WIDTH, owner or "", TAKEN if owner else EMPTY, BLACK)
        style, ink = (CHOSEN, BLACK) if is_chosen else (TOKEN, WHITE)
        return _cell(x, y, WIDTH, str(position), style, ink, go=position)

    def name(self, block_id: int) -> str:
        first = block_id * self.block_size
        x, y = self.place(first)
        last = first + self.block_size - 1
        name = label(x, y + CELL + 13, f"block {block_id}", 'class="mv-soft"', size=11)
        return group([name, label(x, y + CELL + 25, f"{first}-{last}", 'class="mv-soft"', size=10)])
