"""Small charts below one another over the same x axis, such as the minutes of a run: one quantity in each.

Lines differ in dash and mark as well as in colour, and carry their name at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, group, label, line, number
from minivllm.viz.palette import BLUE, ORANGE, PURPLE

WIDTH, LEFT, RIGHT, TOP, HEIGHT, GAP = 840, 80, 130, 16, 92, 40
STYLES = ((BLUE, ""), (ORANGE, "6 3"), (PURPLE, "2 3"))
BARS = " .:-=+*#@"  # for the text: a character for each point, of eight heights above nothing


@dataclass(frozen=True)
class Line:
    """One quantity; None where it is not known."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Panel:
    """One small chart from 0 to its largest value."""

    title: str
    lines: Sequence[Line]  # at most three
    unit: str = ""


def draw_panels(panels: Sequence[Panel], x_name: str, xs: Sequence[float]) -> Drawing:
    """All panels; point i of every line stands at `xs[i]`."""
    shapes: list[str] = []
    for row, panel in enumerate(panels):
        shapes += _panel(panel, xs, TOP + row * (HEIGHT + GAP))
    bottom = TOP + len(panels) * (HEIGHT + GAP)
    shapes += _x_axis(x_name, xs, bottom - GAP + 34)
    return Drawing(WIDTH, bottom + 16, tuple(shapes), describe(panels, x_name, xs), to_text(panels))


def describe(panels: Sequence[Panel], x_name: str, xs: Sequence[float]) -> str:
    """One sentence with the range of every line."""
    told = []
    for panel in panels:
        ranges = ", ".join(f"{one.name} {_range(one)}" for one in panel.lines)
        told.append(f"{panel.title}: {ranges}{' ' + panel.unit if panel.unit else ''}")
    return f"{len(xs)} points, {x_name} {number(xs[0])} to {number(xs[-1])}. {'; '.join(told)}."


def to_text(panels: Sequence[Panel]) -> str:
    """A line of characters for each quantity: the taller the character, the larger the value."""
    width = max(len(one.name) for panel in panels for one in panel.lines)
    lines = []
    for panel in panels:
        lines.append(f"{panel.title}{f' ({panel.unit})' if panel.unit else ''}")
        most = _most(panel)
        for one in panel.lines:
            marks = "".join("?" if value is None else _mark(value, most) for value in one.values)
            lines.append(f"  {one.name.ljust(width)} |{marks}| {_range(one)}")
    return "\n".join(lines)


def _mark(value: float, most: float) -> str:
    return BARS[0] if value <= 0 else BARS[max(1, round((len(BARS) - 1) * value / most))]


def _range(one: Line) -> str:
    known = [value for value in one.values if value is not None]
    if not known:
        return "unknown"
    low, high = min(known), max(known)
    return _short(low) if low == high else f"{_short(low)} to {_short(high)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else number(value)


def _most(panel: Panel) -> float:
    """The top of the scale: never 0, so that a line of zeros lies at the bottom."""
    return max((value for one in panel.lines for value in one.values if value is not None), default=0) or 1


def _panel(panel: Panel, xs: Sequence[float], y: float) -> list[str]:
    most, bottom = _most(panel), y + HEIGHT
    title = panel.title + (f" ({panel.unit})" if panel.unit else "")
    shapes = [label(LEFT, y + 4, title)]
    for share in (0.0, 1.0):
        height = bottom - share * (HEIGHT - 16)
        shapes.append(line(LEFT, height, WIDTH - RIGHT, height, 'class="mv-line" stroke-opacity=".3"'))
        shapes.append(
            label(LEFT - 8, height + 4, _short(share * most), 'class="mv-soft"', size=11, anchor="end")
        )
    ends: list[float] = []
    for one, (color, dash) in zip(panel.lines, STYLES, strict=False):
        points = [
            (_x(x, xs), bottom - (HEIGHT - 16) * value / most)
            for x, value in zip(xs, one.values, strict=True)
            if value is not None
        ]
        if not points:
            continue
        end = points[-1][1]
        while any(abs(end - other) < 14 for other in ends):  # names must not lie on one another
            end -= 14
        ends.append(end)
        shapes.append(group([_path(points, color, dash), _name(one.name, end, color, dash)]))
    return shapes


def _path(points: Sequence[tuple[float, float]], color: str, dash: str) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    way = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return f'<path d="M{way}" fill="none" stroke="{color}" stroke-width="2.5"{dashes}/>'


def _name(name: str, y: float, color: str, dash: str) -> str:
    x = WIDTH - RIGHT + 8
    return group([_path([(x, y), (x + 18, y)], color, dash), label(x + 24, y + 4, name, size=12)])


def _x(x: float, xs: Sequence[float]) -> float:
    span = (xs[-1] - xs[0]) or 1
    return LEFT + (WIDTH - RIGHT - LEFT) * (x - xs[0]) / span


def _x_axis(x_name: str, xs: Sequence[float], y: float) -> list[str]:
    marks = [xs[0], xs[len(xs) // 2], xs[-1]] if len(xs) > 2 else list(xs)
    shapes = [
        label(_x(x, xs), y - 18, number(x), 'class="mv-soft"', size=11, anchor="middle")
        for x in dict.fromkeys(marks)
    ]
    return [
        *shapes,
        label((LEFT + WIDTH - RIGHT) / 2, y, x_name, 'class="mv-soft"', size=12, anchor="middle"),
    ]
