"""Who reads which block: the programs of a decode kernel, their lanes round by round, and the memory below.

Traced by our own sums, those of `attend_blocks` (minivllm/course/extra/ch07_decode.py): from the block tables and
lengths follow the block that a program loads in each round, and which of its lanes are masked. A test poisons slot
after slot, and finds the real kernels to read exactly these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, group, label, rect
from minivllm.viz.palette import BLACK, BLUE, GREY, ORANGE, WHITE
from minivllm.viz.stepper import Frame, Stepper

PAGE, MARGIN, LEFT, CELL, ROW, GAP = 840, 16, 170, 26, 34, 14
NOW, DONE = f'fill="{ORANGE}" stroke="{BLACK}"', f'fill="{BLUE}"'
IDLE, OFF = f'fill="{GREY}"', f'fill="none" stroke="{BLACK}" stroke-dasharray="2 2"'
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Batch:
    """What the kernel is started with. A program is (request, head), or (request, head, piece) of a split context."""

    block_tables: Sequence[Sequence[int]]
    seq_lens: Sequence[int]
    block_size: int
    num_blocks: int  # of the memory, the null block included
    num_heads: int = 1
    num_splits: int = 1

    @property
    def lanes(self) -> int:
        """Slots of a tile: the block size, rounded up to a power of two."""
        return 1 << (self.block_size - 1).bit_length()

    @property
    def programs(self) -> list[tuple[int, ...]]:
        pieces = [(s,) for s in range(self.num_splits)] if self.num_splits > 1 else [()]
        return [(r, h, *s) for r in range(len(self.seq_lens)) for h in range(self.num_heads) for s in pieces]

    def blocks_of(self, program: tuple[int, ...]) -> range:
        """The logical blocks that a program walks over."""
        num_blocks = -(-self.seq_lens[program[0]] // self.block_size)
        share = -(-num_blocks // self.num_splits)
        first = (program[2] if len(program) > 2 else 0) * share
        return range(min(first, num_blocks), min(first + share, num_blocks))

    def loads(self, program: tuple[int, ...], index: int) -> list[int | None]:
        """The slot that each lane loads for logical block `index`; None: masked."""
        block = self.block_tables[program[0]][index]
        return [
            block * self.block_size + lane
            if lane < self.block_size and index * self.block_size + lane < self.seq_lens[program[0]]
            else None
            for lane in range(self.lanes)
        ]

    def slots_of(self, program: tuple[int, ...]) -> set[int]:
        """Every slot that a program reads."""
        return {
            slot
            for index in self.blocks_of(program)
            for slot in self.loads(program, index)
            if slot is not None
        }

    @property
    def num_rounds(self) -> int:
        return max(len(self.blocks_of(program)) for program in self.programs)

    def content(self) -> dict[int, str]:
        """Slot -> the token that lies there, such as A5."""
        return {
            table[p // self.block_size] * self.block_size + p % self.block_size: f"{LETTERS[r]}{p}"
            for r, (table, length) in enumerate(zip(self.block_tables, self.seq_lens, strict=True))
            for p in range(length)
        }


def draw_access(batch: Batch, now: int) -> Drawing:
    """Round `now` of all programs: the lanes above, the memory below. After the last round: what was read in all."""
    read_now, read = _reads(batch, now)
    shapes = [
        label(MARGIN, MARGIN + 12, "programs", 'class="mv-soft"'),
        label(LEFT, MARGIN + 12, f"lanes of round {now}: the slots they load", 'class="mv-soft"'),
    ]
    for row, program in enumerate(batch.programs):
        shapes += _program(batch, program, now, MARGIN + 22 + row * ROW)
    top = MARGIN + 50 + len(batch.programs) * ROW
    shapes.append(label(MARGIN, top + 18, "memory"))
    shapes.append(label(MARGIN, top + 34, "(tokens in slots)", 'class="mv-soft"', size=11))
    width = batch.block_size * CELL + GAP
    per_row = max(1, (PAGE - LEFT - MARGIN) // width)
    content = batch.content()
    for block in range(batch.num_blocks):
        x, y = LEFT + block % per_row * width, top + block // per_row * (CELL + 30)
        for offset in range(batch.block_size):
            slot = block * batch.block_size + offset
            style = NOW if slot in read_now else DONE if slot in read else IDLE if slot in content else OFF
            ink = 'class="mv-soft"' if slot not in content else f'fill="{WHITE if style is DONE else BLACK}"'
            shapes.append(_cell(x + offset * CELL, y, content.get(slot, "?"), style, ink))
        shapes.append(label(x, y + CELL + 12, f"block {block}", 'class="mv-soft"', size=11))
    height = top + -(-batch.num_blocks // per_row) * (CELL + 30) + MARGIN
    return Drawing(PAGE, height, tuple(shapes), describe(batch, now), to_text(batch, now))


def _reads(batch: Batch, now: int) -> tuple[set[int], set[int]]:
    """The slots read in this round, and those read up to it."""
    current: set[int] = set()
    so_far: set[int] = set()
    for program in batch.programs:
        for turn, index in enumerate(batch.blocks_of(program)):
            slots = {slot for slot in batch.loads(program, index) if slot is not None}
            so_far |= slots if turn <= now else set()
            current |= slots if turn == now else set()
    return current, so_far


def _program(batch: Batch, program: tuple[int, ...], now: int, y: float) -> list[str]:
    blocks = batch.blocks_of(program)
    shapes = [label(MARGIN, y + 18, f"{program}  {LETTERS[program[0]]}")]
    if now >= len(blocks):
        idle = "no block" if not blocks else "has ended"
        return [*shapes, label(LEFT, y + 18, idle, 'class="mv-soft"', size=12)]
    index = blocks[now]
    for lane, slot in enumerate(batch.loads(program, index)):
        style, ink = (OFF, 'class="mv-soft"') if slot is None else (NOW, f'fill="{BLACK}"')
        shapes.append(_cell(LEFT + lane * CELL, y, "x" if slot is None else str(slot), style, ink))
    told = f"table[{index}] = block {batch.block_tables[program[0]][index]}"
    return [*shapes, label(LEFT + batch.lanes * CELL + 12, y + 18, told, size=12)]


def _cell(x: float, y: float, content: str, style: str, ink: str) -> str:
    middle = label(x + CELL / 2 - 1, y + 18, content, ink, size=11, anchor="middle")
    return group([rect(x, y, CELL - 2, CELL, style, radius=3), middle])


def describe(batch: Batch, now: int) -> str:
    """One sentence with the numbers of the picture."""
    told = []
    for program in batch.programs:
        blocks = batch.blocks_of(program)
        if now < len(blocks):
            block = batch.block_tables[program[0]][blocks[now]]
            off = batch.loads(program, blocks[now]).count(None)
            told.append(
                f"program {program} loads block {block}"
                + (f" with {off} of {batch.lanes} lanes masked" if off else "")
            )
    return f"Round {now} of {batch.num_rounds}: {'; '.join(told) or 'every program has ended'}"


def to_text(batch: Batch, now: int) -> str:
    """A line for each program, with its lanes; x is a masked lane."""
    lines = []
    for program in batch.programs:
        blocks = batch.blocks_of(program)
        if now >= len(blocks):
            lines.append(f"program {program}  -")
            continue
        lanes = ["x" if slot is None else str(slot) for slot in batch.loads(program, blocks[now])]
        block = batch.block_tables[program[0]][blocks[now]]
        lines.append(f"program {program}  block {block:>2}  slots {' '.join(lanes)}")
    return "\n".join(lines)


def access_frame(batch: Batch, now: int) -> Frame:
    """One round, and how many lanes are at work in it."""
    walking = [program for program in batch.programs if now < len(batch.blocks_of(program))]
    lanes = [slot for program in walking for slot in batch.loads(program, batch.blocks_of(program)[now])]
    caption = f"Round {now}: {len(walking)} of {len(batch.programs)} programs load a block"
    if walking:
        caption += f"; {lanes.count(None)} of their {len(lanes)} lanes are masked"
    return Frame(draw_access(batch, now), f"{caption}.")


def access_stepper(batch: Batch, title: str = "Who reads which block", *, start: int = 0) -> Stepper:
    """One frame for each round of the loop, and one after the last."""
    return Stepper([access_frame(batch, now) for now in range(batch.num_rounds + 1)], title, start)
