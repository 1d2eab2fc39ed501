"""Salient channels: how large each input is, and how much of the rounding error comes in through it, scale by scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, label, line, rect
from minivllm.viz.palette import BLUE, ORANGE, SKY_BLUE, VERMILION
from minivllm.viz.stepper import Frame, Stepper

PAGE_WIDTH, LEFT, MARGIN, HEIGHT = 840, 100, 16, 100
BARS = 480  # the width of the part with a bar for each channel; the curve stands right of it
CURVE_LEFT, CURVE = LEFT + BARS + 70, 160


@dataclass(frozen=True)
class Tried:
    """One alpha of the search."""

    alpha: float
    scale: Sequence[float]  # of each channel
    entering: Sequence[float]  # of each channel: the part of the output's error that comes in through it
    error: float  # of the outputs


def salience_stepper(
    importance: Sequence[float], tried: Sequence[Tried], title: str, *, num_channels: int = 40
) -> Stepper:
    """One frame for each alpha, beginning with the first, which is rounding to nearest.

    Args:
        importance: of each channel, its mean size.
        tried: what came of each alpha.
        title: names the figure.
        num_channels: about so many channels are drawn, evenly taken from the most to the least important.
    """
    order = sorted(range(len(importance)), key=lambda j: -importance[j])
    drawn = order[:: max(1, len(order) // num_channels)]
    frames = [_frame(importance, tried, order, drawn, index) for index in range(len(tried))]
    return Stepper(frames, title, axes={"alpha": [f"{entry.alpha:.2f}" for entry in tried]})


def _frame(
    importance: Sequence[float], tried: Sequence[Tried], order: list[int], drawn: list[int], index: int
) -> Frame:
    now, nearest = tried[index], tried[0]
    best = min(range(len(tried)), key=lambda i: tried[i].error)
    ratio = now.error / nearest.error
    told = f"alpha {now.alpha:.2f}: the outputs' error is {ratio:.2f} times that of rounding to nearest."
    if index == best:
        told += " This is the smallest."
    top = order[: len(order) // 4]
    shares = [sum(entry.entering[j] for j in top) / sum(nearest.entering) for entry in (nearest, now)]
    told += f" The {len(top)} most important channels bring in {shares[1]:.0%}"
    told += " of it." if now is nearest else f" of what all did at alpha 0, instead of {shares[0]:.0%}."
    scales = [now.scale[j] for j in order]
    alt = f"{told} The scales of {len(order)} channels go from {scales[0]:.2f} (most important) to {scales[-1]:.2f}."
    shapes = _channels(importance, now, nearest, drawn) + _curve(tried, index, best)
    rows = [f"{'channel':>8} {'size':>7} {'scale':>6} {'error at 0':>11} {'now':>8}"]
    largest = max(nearest.entering)
    for j in drawn[:: max(1, len(drawn) // 8)]:
        before, after = nearest.entering[j] / largest, now.entering[j] / largest
        rows.append(f"{j:>8} {importance[j]:7.2f} {now.scale[j]:6.2f} {before:11.2f} {after:8.2f}")
    return Frame(Drawing(PAGE_WIDTH, 2 * (HEIGHT + MARGIN) + 50, tuple(shapes), alt, "\n".join(rows)), told)


def _channels(importance: Sequence[float], now: Tried, nearest: Tried, order: list[int]) -> list[str]:
    """The upper row of bars: sizes. The lower: roots of squared errors, pale at alpha 0 and full now."""
    width = BARS / len(order)
    upper, lower = MARGIN + HEIGHT, 2 * (MARGIN + HEIGHT) + 20
    tallest = max(importance[j] for j in order)
    deepest = 1.25 * max(nearest.entering[j] for j in order)  # the same in every frame; what is larger is cut
    shapes = [
        label(MARGIN, MARGIN + 14, "mean size"),
        label(MARGIN, MARGIN + 30, "of the input", 'class="mv-soft"', size=11),
    ]
    shapes += [
        label(MARGIN, lower - HEIGHT + 14, "its error"),
        label(MARGIN, lower - HEIGHT + 30, "pale: alpha 0", 'class="mv-soft"', size=11),
    ]
    for place, j in enumerate(order):
        x = LEFT + place * width
        shapes.append(_bar(x, upper, width - 1, importance[j] / tallest, f'fill="{BLUE}"'))
        shapes.append(_bar(x, lower, width - 1, (nearest.entering[j] / deepest) ** 0.5, f'fill="{SKY_BLUE}"'))
        shapes.append(
            _bar(
                x + width / 4, lower, width / 2 - 1, (now.entering[j] / deepest) ** 0.5, f'fill="{VERMILION}"'
            )
        )
    shapes += [line(LEFT, y, LEFT + BARS, y) for y in (upper, lower)]
    last = f"{len(order)} of {len(importance)} input channels, from the most important to the least"
    return [*shapes, label(LEFT, lower + 18, last, 'class="mv-soft"', size=11)]


def _bar(x: float, bottom: float, width: float, share: float, style: str) -> str:
    height = round(min(1.0, share) * HEIGHT)
    return rect(round(x, 1), bottom - height, round(width, 1), height, style)


def _curve(tried: Sequence[Tried], index: int, best: int) -> list[str]:
    """The error over alpha, with a ring at the best and a dot where we are."""
    highest, bottom = max(entry.error for entry in tried), 2 * (MARGIN + HEIGHT) + 20
    tall = bottom - MARGIN - 24
    points = [
        (CURVE_LEFT + round(CURVE * entry.alpha), bottom - round(tall * entry.error / highest))
        for entry in tried
    ]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    (x, y), (best_x, best_y) = points[index], points[best]
    return [
        label(CURVE_LEFT, MARGIN + 14, "error of the outputs"),
        line(CURVE_LEFT, bottom, CURVE_LEFT + CURVE, bottom),
        f'<path d="{path}" class="mv-line" stroke-width="1.5"/>',
        f'<circle cx="{best_x}" cy="{best_y}" r="8" class="mv-line"/>',
        f'<circle cx="{x}" cy="{y}" r="5" fill="{ORANGE}"/>',
        label(CURVE_LEFT, bottom + 18, "alpha 0", 'class="mv-soft"', size=11),
        label(CURVE_LEFT + CURVE, bottom + 18, "1", 'class="mv-soft"', size=11, anchor="end"),
    ]
