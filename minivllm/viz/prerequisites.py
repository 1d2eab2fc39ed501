"""The map of the course: one box a chapter, an arrow from each chapter to those that build on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, attribute, label, number, rect

WIDTH, HEIGHT = 196, 58  # of a box
GAP, DROP = 16, 40  # between boxes of a row, and between rows


@dataclass(frozen=True)
class Stop:
    """A chapter on the map."""

    number: int
    title: str
    needs: tuple[int, ...] = ()
    href: str = ""  # where a click leads; "" for nowhere
    note: str = ""  # a few words below the title


def prerequisite_map(stops: Sequence[Stop]) -> Drawing:
    """The map of these chapters. A chapter stands one row below the lowest that it needs.

    Raises:
        ValueError: a chapter needs one that is not here, or that comes later.
    """
    places = _places(stops)
    rows = 1 + max((row for row, _ in places.values()), default=0)
    widest = max((1 + column for _, column in places.values()), default=1)
    total = widest * (WIDTH + GAP) + GAP
    in_row = [sum(row == other for other, _ in places.values()) for row in range(rows)]

    def left(row: int) -> float:
        return (total - in_row[row] * (WIDTH + GAP) + GAP) / 2

    def corner(chapter: int) -> tuple[float, float]:
        row, column = places[chapter]
        return left(row) + column * (WIDTH + GAP), GAP + row * (HEIGHT + DROP)

    def gaps(row: int) -> list[float]:
        return [left(row) - GAP / 2 + i * (WIDTH + GAP) for i in range(in_row[row] + 1)]

    shapes = []
    for stop in stops:
        x, y = corner(stop.number)
        for needed in stop.needs:
            from_x, from_y = corner(needed)
            between = [gaps(row) for row in range(places[needed][0] + 1, places[stop.number][0])]
            shapes.append(_arrow(from_x + WIDTH / 2, from_y + HEIGHT, x + WIDTH / 2, y, between))
    shapes += [_box(stop, *corner(stop.number)) for stop in stops]
    text = "\n".join(_line(stop) for stop in stops)
    alt = (
        f"The {len(stops)} chapters and what each builds on: "
        + "; ".join(_line(stop) for stop in stops)
        + "."
    )
    return Drawing(int(total), rows * (HEIGHT + DROP) - DROP + 2 * GAP, tuple(shapes), alt, text)


def _places(stops: Sequence[Stop]) -> dict[int, tuple[int, int]]:
    """Each chapter's (row, column)."""
    places: dict[int, tuple[int, int]] = {}
    for stop in stops:
        if unknown := [number for number in stop.needs if number not in places]:
            raise ValueError(f"chapter {stop.number} needs {unknown}, which do not stand before it")
        row = 1 + max((places[number][0] for number in stop.needs), default=-1)
        places[stop.number] = (row, sum(row == other for other, _ in places.values()))
    return places


def _arrow(x1: float, y1: float, x2: float, y2: float, between: list[list[float]]) -> str:
    """An arrow down that goes behind no box: through a gap of each row `between`, given as where its gaps are."""
    path, x = f"M{number(x1)} {number(y1)}", x1
    for gaps in between:
        gap = min(gaps, key=lambda each: (abs(each - x) + abs(each - x2), abs(each - x)))
        path += _bend(gap - x) + f"v{HEIGHT}"
        x = gap
    path += _bend(x2 - x) + "m-4 -6l4 6l4 -6"
    return f'<path d="{path}" class="mv-line" opacity="0.55"/>'


def _bend(side: float) -> str:
    """From one row to the next: it leaves and arrives vertically."""
    return f"c0 {number(DROP / 2)} {number(side)} {number(DROP / 2)} {number(side)} {DROP}"


def _box(stop: Stop, x: float, y: float) -> str:
    lines = _wrap(stop.title)
    top = y + HEIGHT / 2 + 4.5 - 8 * (len(lines) - 1 + bool(stop.note))
    content = rect(x, y, WIDTH, HEIGHT, 'class="mv-paper mv-stop" stroke="#767676"', radius=8)
    content += label(x + 10, y + HEIGHT / 2 + 6, f"{stop.number:02d}", size=18)
    for i, words in enumerate(lines):
        content += label(x + 40, top + 16 * i, words)
    if stop.note:
        content += label(x + 40, top + 16 * len(lines), stop.note, 'class="mv-soft"', size=11)
    return f"<a href={attribute(stop.href)}>{content}</a>" if stop.href else f"<g>{content}</g>"


def _wrap(title: str, room: int = 20) -> list[str]:
    """The title in lines of about `room` characters, two at most."""
    if len(title) <= room:
        return [title]
    cut = title.rfind(" ", 0, room + 1)
    return [title[:cut], title[cut + 1 :]]


def _line(stop: Stop) -> str:
    needs = " and ".join(f"{number:02d}" for number in stop.needs)
    return f"{stop.number:02d} {stop.title}" + (f" (after {needs})" if needs else "")
