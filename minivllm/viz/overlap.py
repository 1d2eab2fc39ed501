"""Two distributions on top of each other: what a draft's acceptance is, and from what the second draw comes."""

from __future__ import annotations

from collections.abc import Sequence

from minivllm.viz.drawing import Drawing, group, label, line, rect
from minivllm.viz.palette import BLUE, GREEN, VERMILION, ink_on

WIDTH, LEFT, MARGIN, HEIGHT = 840, 60, 16, 180
LEGEND = [
    (GREEN, "k: drafted and kept", 170),
    (VERMILION, "t: drafted too often, turned down", 250),
    (BLUE, "d: drawn instead", 150),
]


def draw_overlap(p: Sequence[float], q: Sequence[float], names: Sequence[str]) -> Drawing:
    """A bar for each token: min(p, q) is kept; what q has more is turned down, what p has more is drawn instead.

    Args:
        p: the model's probabilities.
        q: the drafter's.
        names: of the tokens.
    """
    width = (WIDTH - LEFT - MARGIN) / len(names)
    bottom, top = MARGIN + HEIGHT, max([*p, *q])
    shapes = []
    for i, name in enumerate(names):
        x, kept = LEFT + i * width, min(p[i], q[i])
        more, color, letter = (q[i] - p[i], VERMILION, "t") if q[i] > p[i] else (p[i] - q[i], BLUE, "d")
        low, high = kept / top * HEIGHT, more / top * HEIGHT
        bar = [_piece(x, bottom - low, width - 10, low, GREEN, "k")]
        bar.append(_piece(x, bottom - low - high, width - 10, high, color, letter))
        shapes.append(group(bar))
        shapes.append(label(x + (width - 10) / 2, bottom + 18, name, anchor="middle"))
    shapes.append(line(LEFT, bottom + 0.5, WIDTH - MARGIN, bottom + 0.5))
    shapes += [label(LEFT - 8, bottom + 4, "0", 'class="mv-soft"', size=11, anchor="end")]
    shapes += [label(LEFT - 8, MARGIN + 8, f"{top:.2f}", 'class="mv-soft"', size=11, anchor="end")]
    x = LEFT
    for color, text, room in LEGEND:
        key = rect(x, bottom + 34, 14, 14, f'fill="{color}"', radius=2)
        shapes.append(group([key, label(x + 19, bottom + 46, text, size=12)]))
        x += room
    kept = sum(map(min, p, q))
    alt = f"{len(names)} tokens; a draft is kept with probability {kept:.2f}, and otherwise another token is drawn"
    rows = [
        f"{name:>8} model {a:.2f} drafter {b:.2f} kept {min(a, b):.2f}"
        for name, a, b in zip(names, p, q, strict=True)
    ]
    return Drawing(WIDTH, bottom + 62, tuple(shapes), alt, "\n".join(rows))


def _piece(x: float, y: float, width: float, height: float, color: str, letter: str) -> str:
    if height < 0.5:
        return ""
    shape = rect(x, y, width, height, f'fill="{color}"')
    if height < 14:
        return shape
    return shape + label(
        x + width / 2, y + height / 2 + 4, letter, f'fill="{ink_on(color)}"', size=11, anchor="middle"
    )
