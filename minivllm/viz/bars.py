"""Horizontal bars with their names above and their values behind them: a few numbers that are to be compared.

Ours is dark and plain, what it is compared with light and hatched, so that colour alone never tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, label, rect
from minivllm.viz.palette import BLUE, ORANGE

WIDTH, LEFT, LONGEST = 460, 16, 330
TITLE, ROW, BAR, GAP = 26, 42, 16, 14
TEXT_WIDTH = 40  # characters of the longest bar, for a terminal
HATCH = (
    '<defs><pattern id="mv-other" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" fill="{ORANGE}"/><path d="M0 0V6" stroke="#fff" stroke-width="3"/></pattern></defs>'
)


@dataclass(frozen=True)
class Bar:
    """One number."""

    name: str
    value: float
    shown: str  # the value as it is written, with its unit
    is_ours: bool = True


@dataclass(frozen=True)
class Bars:
    """Numbers of one kind, from 0 to the largest."""

    title: str
    bars: Sequence[Bar]


def draw_bars(groups: Sequence[Bars]) -> Drawing:
    """All groups below one another, each with a scale of its own."""
    shapes: list[str] = [HATCH]
    y = 8.0
    for group in groups:
        shapes.append(label(LEFT, y + 18, group.title, 'class="mv-ink" font-weight="600"', size=14))
        y += TITLE
        most = max(bar.value for bar in group.bars)
        for bar in group.bars:
            shapes += _bar(bar, most, y)
            y += ROW
        y += GAP
    return Drawing(WIDTH, round(y), tuple(shapes), describe(groups), to_text(groups))


def describe(groups: Sequence[Bars]) -> str:
    """One sentence for each group."""
    return " ".join(
        f"{group.title}: {', '.join(f'{bar.name} {bar.shown}' for bar in group.bars)}." for group in groups
    )


def to_text(groups: Sequence[Bars]) -> str:
    """The same for a terminal: # is ours, / what it is compared with."""
    width = max(len(bar.name) for group in groups for bar in group.bars)
    lines: list[str] = []
    for group in groups:
        most = max(bar.value for bar in group.bars)
        lines.append(group.title)
        for bar in group.bars:
            marks = ("#" if bar.is_ours else "/") * round(TEXT_WIDTH * _share(bar, most))
            lines.append(f"  {bar.name.ljust(width)} |{marks} {bar.shown}")
    return "\n".join(lines)


def _share(bar: Bar, most: float) -> float:
    return bar.value / most if most else 0.0


def _bar(bar: Bar, most: float, y: float) -> list[str]:
    length = max(1.0, LONGEST * _share(bar, most))
    fill = f'fill="{BLUE}"' if bar.is_ours else f'fill="url(#mv-other)" stroke="{ORANGE}"'
    return [
        label(LEFT, y + 14, bar.name, 'class="mv-soft"'),
        rect(LEFT, y + 20, length, BAR, fill),
        label(LEFT + length + 8, y + 20 + BAR - 3, bar.shown),
    ]
