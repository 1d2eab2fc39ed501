"""Who looks at whom: a row for each token, a column for each token that it may see, the weight in the cell.

One frame for each step of decoding: the matrix grows by a row, and a mark beside each row says whether it was computed
for the first time or again. The weights are given: the picture shows what somebody's attention gives, right or wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, group, label, line, rect
from minivllm.viz.palette import BLACK, BLUE, GREY, ORANGE, WHITE, ink_on

WIDTH, CELL, ROW, MARGIN = 840, 28, 22, 16
LEFT, TOP = 150, 84  # where cells begin; names of tokens stand before
SIDE, BAR = 230, 58  # the column with the bars, at the right; the height of one
NEW, AGAIN = f'fill="{ORANGE}"', f'fill="{GREY}" stroke="{BLACK}" stroke-dasharray="2 2"'
MAX_TOKENS = (WIDTH - LEFT - SIDE - 2 * MARGIN) // CELL


@dataclass(frozen=True)
class CostBar:
    """A number that belongs to the picture, as a bar beside the matrix."""

    name: str
    share: float  # of the bar's full length, 0 to 1
    told: str  # the number, with its unit


def draw_attention(
    weights: Sequence[Sequence[float]],
    tokens: Sequence[str],
    *,
    num_known: int | None = None,
    room: int | None = None,
    bars: Sequence[CostBar] = (),
) -> Drawing:
    """One head's weights.

    Args:
        weights: a row for each token, with a number (0 to 1) for each token; what lies behind the row's own token is
            the future, and drawn empty when it is 0.
        tokens: their texts.
        num_known: rows that had been computed before this picture, and are computed again; None: rows bear no mark.
        room: rows and columns to leave room for; default: as many as there are.
        bars: drawn at the right.

    Raises:
        ValueError: more tokens than fit on a page.
    """
    room = max(room or 0, len(tokens))
    if room > MAX_TOKENS:
        raise ValueError(f"tokens: the picture has room for at most {MAX_TOKENS} tokens, not {room}")
    names = [_shown(token) for token in tokens]
    shapes = [label(MARGIN, TOP - 12, "a token's row", 'class="mv-soft"', size=11)]
    shapes += [_column_name(index, name) for index, name in enumerate(names)]
    for index, (name, row) in enumerate(zip(names, weights, strict=True)):
        shapes += _row(index, name, row)
        if num_known is not None:
            shapes.append(_mark(index, is_known=index < num_known))
    x = LEFT + room * CELL + 28
    shapes += _legend(x, has_marks=num_known is not None)
    for index, bar in enumerate(bars):
        shapes += _bar(x, TOP + 78 + index * BAR, bar)
    height = TOP + max(room * ROW, 78 + len(bars) * BAR) + MARGIN
    return Drawing(WIDTH, height, tuple(shapes), describe(weights, names, bars), to_text(weights, names))


def describe(weights: Sequence[Sequence[float]], names: Sequence[str], bars: Sequence[CostBar] = ()) -> str:
    """One sentence: where the last token looks, and the numbers of the bars."""
    last = max(range(len(names)), key=lambda index: weights[-1][index])
    share = f"{weights[-1][last]:.0%}"
    told = "".join(f"; {bar.name}: {bar.told}" for bar in bars)
    return f"attention of {len(names)} tokens; the last, {names[-1]}, looks most at {names[last]}, with {share}{told}"


def to_text(weights: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """The weights in percent, a line for each token; a dot stands for what it may not see."""
    width = max(map(len, names))
    rows = [
        f"{name.rjust(width)} " + "".join(_percent(row, index, column) for column in range(len(names)))
        for index, (name, row) in enumerate(zip(names, weights, strict=True))
    ]
    return "\n".join(line.rstrip() for line in rows)


def _percent(row: Sequence[float], index: int, column: int) -> str:
    is_hidden = column > index and (column >= len(row) or not row[column])
    return "   ." if is_hidden else f"{100 * row[column]:4.0f}"


def _shown(token: str) -> str:
    """A token's text with its blanks and line ends made visible, and short."""
    text = token.replace("\n", "\\n").replace(" ", "_")
    return text if len(text) <= 9 else text[:8] + "~"


def _column_name(index: int, name: str) -> str:
    x, y = LEFT + index * CELL + CELL / 2 + 4, TOP - 8
    return label(x, y, name, f'class="mv-ink" transform="rotate(-55 {x:g} {y})"', size=12)


def _mark(index: int, *, is_known: bool) -> str:
    """Whether a row was computed before."""
    y, style = TOP + index * ROW, AGAIN if is_known else NEW
    text = "again" if is_known else "new"
    content = label(MARGIN + 23, y + 15, text, f'fill="{BLACK}"', size=11, anchor="middle")
    return group([rect(MARGIN, y + 3, 46, ROW - 6, style, radius=3), content])


def _row(index: int, name: str, row: Sequence[float]) -> list[str]:
    """The token's name, and a cell for each token that it may see, or sees all the same."""
    y = TOP + index * ROW
    cells = [
        _cell(LEFT + column * CELL, y, weight)
        for column, weight in enumerate(row)
        if column <= index or weight
    ]
    return [label(LEFT - 8, y + 15, name, size=12, anchor="end"), *cells]


def _cell(x: float, y: float, weight: float) -> str:
    color = _shade(weight)
    style = f'fill="{color}" stroke="#BBBBBB"'
    content = label(
        x + CELL / 2, y + 15, f"{100 * weight:.0f}", f'fill="{ink_on(color)}"', size=11, anchor="middle"
    )
    return group([rect(x + 1, y + 1, CELL - 2, ROW - 2, style), content])


def _shade(weight: float) -> str:
    """From white (0) to blue (1), in steps of the percent that is written on it."""
    share = min(100, max(0, round(100 * weight))) / 100
    ends = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (WHITE, BLUE)]
    return "#" + "".join(f"{round(a + (b - a) * share):02X}" for a, b in zip(*ends, strict=True))


def _legend(x: float, *, has_marks: bool) -> list[str]:
    shapes = [
        label(x, TOP + (47 if has_marks else 11), "cell: weight in percent", 'class="mv-soft"', size=11)
    ]
    if has_marks:
        shapes += [rect(x, TOP, 12, 12, NEW, radius=3), label(x + 18, TOP + 11, "row computed now", size=12)]
        shapes += [rect(x, TOP + 18, 12, 12, AGAIN, radius=3)]
        shapes += [label(x + 18, TOP + 29, "row computed again", size=12)]
    return shapes


def _bar(x: float, y: float, bar: CostBar) -> list[str]:
    width = SIDE - 30
    return [
        label(x, y, bar.name, size=12),
        rect(x, y + 6, max(1.0, width * bar.share), 12, f'fill="{ORANGE}"', radius=2),
        line(x, y + 21, x + width, y + 21),
        label(x, y + 34, bar.told, 'class="mv-soft"', size=11),
    ]
