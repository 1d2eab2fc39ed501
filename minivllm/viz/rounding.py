"""Rounded weights: a histogram before and after, on the grid that they were rounded to; and the error, group by group.

The numbers are given, not computed here: the pictures show what somebody's code made of the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from minivllm.viz.drawing import Drawing, label, line, number, rect
from minivllm.viz.palette import BLUE, ORANGE, SKY_BLUE, VERMILION

PAGE_WIDTH, LEFT, MARGIN, HALF = 840, 100, 16, 110
INSIDE = PAGE_WIDTH - LEFT - MARGIN  # where values are drawn
MANY = 16  # numbers of a grid: more are not listed one by one


def draw_rounding(
    weights: Sequence[float],
    restored: Sequence[float],
    grid: Sequence[float],
    *,
    span: float,
    num_bins: int = 48,
) -> Drawing:
    """A histogram of the weights above a line, and below it how many of them went to each number of the grid.

    Args:
        weights: as they were.
        restored: the same after rounding, one for one.
        grid: every number that they could be rounded to.
        span: the picture reaches from -span to span; what lies beyond is drawn at its edge.
        num_bins: of the histogram.
    """
    axis = MARGIN + HALF
    width = INSIDE / num_bins
    bins = Counter(min(num_bins - 1, int((_inside(w, span) + span) / (2 * span) * num_bins)) for w in weights)
    chosen = Counter(min(range(len(grid)), key=lambda i: abs(grid[i] - value)) for value in restored)
    tallest, deepest = max(bins.values()), max(chosen.values())
    shapes = [
        label(MARGIN, MARGIN + 14, "before"),
        label(MARGIN, axis + 10, "grid"),
        label(MARGIN, axis + 34, "after"),
    ]
    for i, count in sorted(bins.items()):
        height = count / tallest * (HALF - 12)
        shapes.append(rect(LEFT + i * width, axis - height, max(1, width - 1), height, f'fill="{SKY_BLUE}"'))
    shapes.append(line(LEFT, axis, LEFT + INSIDE, axis))
    ticks = "".join(f"M{number(_x(value, span))} {axis}v8" for value in grid)
    shapes.append(f'<path d="{ticks}" class="mv-line"/>')
    thick = min(8.0, max(1.0, INSIDE / len(grid) / 2))
    for i, count in sorted(chosen.items()):
        x, depth = _x(grid[i], span), count / deepest * (HALF - 24)
        shapes.append(rect(x - thick / 2, axis + 14, thick, depth, f'fill="{VERMILION}"'))
    for value in (-span, 0.0, span):
        anchor = "start" if value < 0 else "end" if value > 0 else "middle"
        where = _x(value, span)
        shapes.append(label(where, axis + HALF + 18, f"{value:g}", 'class="mv-soft"', size=11, anchor=anchor))
    alt = (
        f"{len(weights)} weights from {min(weights):.3f} to {max(weights):.3f}, rounded to a grid of {len(grid)} "
        f"numbers from {min(grid):.3f} to {max(grid):.3f}; {len(chosen)} of the numbers are used"
    )
    return Drawing(PAGE_WIDTH, axis + HALF + 34, tuple(shapes), alt, rounding_text(grid, chosen, alt))


def rounding_text(grid: Sequence[float], chosen: Counter[int], alt: str) -> str:
    """A line for each number of the grid: its value, and a # for each weight that went there."""
    if len(grid) > MANY:
        return alt
    return "\n".join(f"{i:>2} = {value:7.3f} {'#' * chosen[i]}" for i, value in enumerate(grid))


def draw_groups(
    weights: Sequence[float],
    errors: Sequence[float],
    steps: Sequence[float],
    *,
    max_weight: float,
    max_error: float,
) -> Drawing:
    """The weights of one output in a row, and below each how far it was moved; a line stands between groups.

    Args:
        weights: of one output, input by input.
        errors: restored - weight, one for one.
        steps: of each group; all groups have the same number of weights.
        max_weight: the height of the upper half; what is larger is cut.
        max_error: the height of the lower half; what is larger is cut.
    """
    size, width = len(weights) // len(steps), INSIDE / len(weights)
    middle, low = MARGIN + HALF // 2 + 8, MARGIN + HALF + HALF // 2 + 40
    shapes = [label(MARGIN, middle + 4, "weights"), label(MARGIN, low + 4, "errors")]
    shapes.append(_bars(weights, middle, max_weight, width, BLUE))
    shapes.append(_bars(errors, low, max_error, width, ORANGE))
    for group, step in enumerate(steps):
        x = LEFT + group * size * width
        shapes.append(line(x, MARGIN, x, low + HALF // 2, 'class="mv-line" stroke-dasharray="2 3"'))
        if size * width > 40:
            shapes.append(label(x + 4, middle + HALF // 2 + 20, f"step {step:.3f}", size=11))
    roots = [_root_mean_square(errors[g * size : (g + 1) * size]) for g in range(len(steps))]
    alt = (
        f"{len(weights)} weights of one output in {len(steps)} groups of {size}; the steps go from {min(steps):.4f} to "
        f"{max(steps):.4f}, the groups' errors (root mean square) from {min(roots):.4f} to {max(roots):.4f}"
    )
    rows = [
        f"group {g:>2}: step {step:.4f}, error {root:.4f} {'#' * round(40 * min(1, root / max_error))}"
        for g, (step, root) in enumerate(zip(steps, roots, strict=True))
    ]
    return Drawing(PAGE_WIDTH, low + HALF // 2 + MARGIN, tuple(shapes), alt, "\n".join(rows))


def _bars(values: Sequence[float], middle: float, largest: float, width: float, color: str) -> str:
    """A thin bar for each value, up or down from the middle, as one path."""
    path = []
    for i, value in enumerate(values):
        height = max(-1.0, min(1.0, value / largest)) * HALF / 2
        path.append(f"M{number(LEFT + (i + 0.5) * width)} {number(middle)}v{number(-height)}")
    thick = number(max(1.0, width - 0.6))
    return f'<path d="{"".join(path)}" stroke="{color}" stroke-width="{thick}" fill="none"/>'


def _root_mean_square(values: Sequence[float]) -> float:
    return float((sum(value * value for value in values) / len(values)) ** 0.5)


def _inside(value: float, span: float) -> float:
    return max(-span, min(span, value))


def _x(value: float, span: float) -> float:
    return LEFT + (_inside(value, span) + span) / (2 * span) * INSIDE
