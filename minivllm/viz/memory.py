"""Memory policies side by side: for each a bar of all token slots, coloured by what the slots are good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, group, label, number, rect
from minivllm.viz.palette import BLACK, MEMORY_STYLES

WIDTH, LEFT, MARGIN, BAR, ROW = 840, 130, 16, 34, 74


@dataclass(frozen=True)
class Segment:
    """Slots [start, start + size) in one state, a key of `MEMORY_STYLES`."""

    start: int
    size: int
    state: str


@dataclass(frozen=True)
class Bar:
    """One policy at one moment."""

    segments: Sequence[Segment]
    note: str  # under the bar: who runs, who waits


def draw_memory(bars: Mapping[str, Bar], capacity: int) -> Drawing:
    """One bar for each policy, by name; `capacity` token slots wide."""
    shapes: list[str] = []
    for row, (name, bar) in enumerate(bars.items()):
        y = MARGIN + row * ROW
        shapes.append(label(MARGIN, y + 22, name))
        shapes.append(_bar(bar.segments, y, capacity))
        shapes.append(
            label(LEFT, y + BAR + 16, f"{bar.note}; {_shares(bar, capacity)}", 'class="mv-soft"', size=12)
        )
    top = MARGIN + len(bars) * ROW
    for i, style in enumerate(MEMORY_STYLES.values()):
        x, y = LEFT + i % 3 * 230, top + i // 3 * 24
        mark = [rect(x, y, 16, 16, f'fill="{style.color}"', radius=2), *_pattern(style.letter, x, y, 16, 16)]
        shapes.append(group([*mark, label(x + 22, y + 13, style.label, size=12)]))
    text = to_text(bars, capacity)
    return Drawing(WIDTH, top + 60, tuple(shapes), describe(bars, capacity), text)


def describe(bars: Mapping[str, Bar], capacity: int) -> str:
    """One sentence with the numbers of the picture."""
    told = [f"{name}: {bar.note}, {_shares(bar, capacity)}" for name, bar in bars.items()]
    return f"{capacity} token slots. {'; '.join(told)}"


def to_text(bars: Mapping[str, Bar], capacity: int, width: int = 60) -> str:
    """A line for each policy; a character is the state at that share of the memory."""
    lines = []
    pad = max(map(len, bars), default=0)
    for name, bar in bars.items():
        ordered = sorted(bar.segments, key=lambda segment: segment.start)
        cells = []
        for column in range(width):
            slot = column * capacity // width
            state = next((s.state for s in ordered if s.start <= slot < s.start + s.size), "free")
            cells.append(MEMORY_STYLES[state].letter)
        lines.append(f"{name.ljust(pad)} {''.join(cells)}  {bar.note}")
    legend = ", ".join(f"{style.letter} = {style.label}" for style in MEMORY_STYLES.values())
    return "\n".join([*lines, legend])


def _shares(bar: Bar, capacity: int) -> str:
    counts = {state: sum(s.size for s in bar.segments if s.state == state) for state in MEMORY_STYLES}
    return ", ".join(f"{state} {count / capacity:.0%}" for state, count in counts.items() if count)


def _bar(segments: Sequence[Segment], y: int, capacity: int) -> str:
    """All segments of a bar, then their letters."""
    scale = (WIDTH - LEFT - MARGIN) / capacity
    edge = f'stroke="{BLACK}" stroke-opacity=".35" stroke-width=".6"'
    outlines: dict[str, str] = {}  # colour -> all its segments as one path: there are many
    letters: list[str] = []
    for segment in segments:
        style, x, width = MEMORY_STYLES[segment.state], LEFT + segment.start * scale, segment.size * scale
        box = f"M{number(x)} {y}h{number(width)}v{BAR}h-{number(width)}z"
        outlines[style.color] = outlines.get(style.color, "") + box
        letters += _pattern(style.letter, x, y, width, BAR)
    paths = [f'<path fill="{color}" d="{path}"/>' for color, path in outlines.items()]
    return group([f"<g {edge}>{''.join(paths)}</g>", *letters])


def _pattern(letter: str, x: float, y: float, width: float, height: float) -> list[str]:
    """The letter of the state, where there is room: colour never stands alone."""
    if width < 9 or letter in "#.":
        return []
    return [label(x + width / 2, y + height / 2 + 4, letter, f'fill="{BLACK}"', size=11, anchor="middle")]
