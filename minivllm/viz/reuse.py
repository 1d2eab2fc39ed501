"""What each step computes, and what it reuses: a row for each step, a cell for each token of the text.

Several ways of doing the same, side by side. The steps are given as (start, stop): the positions that a step computes.
All that lies before `start` must come from somewhere, and that is a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minivllm.viz.drawing import Drawing, group, label, rect
from minivllm.viz.palette import BLACK, BLUE, GREY, ORANGE, WHITE
from minivllm.viz.stepper import Frame, Stepper

WIDTH, CELL, ROW, MARGIN, GAP = 840, 17, 20, 16, 30
TOP, LEFT = 64, 52  # where a panel's cells begin, and how far they stand in
STYLES = {  # letter -> shape, ink, what it says
    "n": (f'fill="{ORANGE}"', BLACK, "computed, for the first time"),
    "a": (f'fill="{GREY}" stroke="{BLACK}" stroke-dasharray="2 2"', BLACK, "computed again"),
    "r": (f'fill="{BLUE}"', WHITE, "reused from the cache"),
}
Steps = Sequence[tuple[int, int]]


def letters(steps: Steps) -> list[str]:
    """A letter for each token of each step: n(ew), a(gain) or r(eused)."""
    rows, known = [], 0
    for start, stop in steps:
        again = max(0, min(known, stop) - start)
        rows.append("r" * start + "a" * again + "n" * (stop - start - again))
        known = max(known, stop)
    return rows


def draw_reuse(panels: Mapping[str, Steps], num_steps: int | None = None) -> Drawing:
    """The first `num_steps` steps of each panel (default: all); the room is for all.

    Raises:
        ValueError: the panels are too wide for a page.
    """
    widths = [max(stop for _, stop in steps) * CELL for steps in panels.values()]
    if sum(widths) + len(widths) * (LEFT + GAP) - GAP > WIDTH - 2 * MARGIN:
        raise ValueError(
            "panels: these steps are too long to stand side by side: draw fewer tokens or panels"
        )
    shapes, x = _legend(), MARGIN
    for (name, steps), width in zip(panels.items(), widths, strict=True):
        shapes += _panel(x, name, steps[:num_steps])
        x += LEFT + width + GAP
    height = TOP + max(map(len, panels.values())) * ROW + 30 + MARGIN
    shown = {name: steps[:num_steps] for name, steps in panels.items()}
    return Drawing(WIDTH, height, tuple(shapes), describe(shown), to_text(shown))


def reuse_stepper(panels: Mapping[str, Steps], title: str = "Computed or reused", start: int = 0) -> Stepper:
    """One frame for each step."""
    count = max(map(len, panels.values()))
    frames = [
        Frame(draw_reuse(panels, number), f"Step {number}. {_told(panels, number)}")
        for number in range(1, count + 1)
    ]
    return Stepper(frames, title, start)


def _told(panels: Mapping[str, Steps], number: int) -> str:
    """What the step of that number computes, in each panel."""
    told = []
    for name, steps in panels.items():
        if number > len(steps):
            told.append(f"{name}: done")
            continue
        start, stop = steps[number - 1]
        told.append(f"{name}: {stop - start} computed, {start} reused")
    return "; ".join(told) + "."


def describe(panels: Mapping[str, Steps]) -> str:
    """One sentence with the sums."""
    return "; ".join(f"{name}: {_sums(steps)} in {len(steps)} steps" for name, steps in panels.items())


def _sums(steps: Steps) -> str:
    cells = "".join(letters(steps))
    return f"{cells.count('n') + cells.count('a')} computed, {cells.count('r')} reused"


def to_text(panels: Mapping[str, Steps]) -> str:
    """The panels one below the other, a line for each step."""
    lines = []
    for name, steps in panels.items():
        lines += [f"{name}: {_sums(steps)}", *(f"{i:>4} {row}" for i, row in enumerate(letters(steps), 1))]
    return "\n".join([*lines, ", ".join(f"{letter} = {style[2]}" for letter, style in STYLES.items())])


def _legend() -> list[str]:
    shapes, x = [], float(MARGIN)
    for letter, (_, _, says) in STYLES.items():
        shapes += [_cell(x, MARGIN - 4, letter), label(x + CELL + 6, MARGIN + 10, says, size=12)]
        x += CELL + 34 + 6.2 * len(says)
    return shapes


def _panel(x: float, name: str, steps: Steps) -> list[str]:
    shapes = [label(x, TOP - 12, name)]
    for index, row in enumerate(letters(steps)):
        y = TOP + index * ROW
        shapes.append(label(x, y + 14, f"step {index + 1}", 'class="mv-soft"', size=11))
        shapes += [_cell(x + LEFT + column * CELL, y, letter) for column, letter in enumerate(row)]
    shapes.append(label(x, TOP + len(steps) * ROW + 18, _sums(steps), 'class="mv-soft"', size=12))
    return shapes


def _cell(x: float, y: float, letter: str) -> str:
    style, ink, _ = STYLES[letter]
    content = label(x + CELL / 2 - 0.5, y + 13, letter, f'fill="{ink}"', size=11, anchor="middle")
    return group([rect(x, y, CELL - 1, ROW - 2, style, radius=2), content])
