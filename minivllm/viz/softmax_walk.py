"""The online softmax at work: scores above, block after block, and below the weights that they have so far.

The weights are relative to the highest score so far. When a block brings a higher one, all weights before it shrink at
once: that is the factor by which `absorb` (minivllm/attention/blockwise.py) multiplies what it has summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, group, label, line, rect
from minivllm.viz.palette import BLACK, BLUE, GREY, ORANGE, VERMILION
from minivllm.viz.stepper import Frame, Stepper

PAGE, MARGIN, LEFT, GAP = 840, 16, 110, 10
SCORES, WEIGHTS, BETWEEN = 120, 80, 66  # heights of the two charts, and the room for block names between them
SEEN, NOW = f'fill="{BLUE}"', f'fill="{ORANGE}" stroke="{BLACK}"'
UNSEEN = f'fill="{GREY}" stroke="{BLACK}" stroke-dasharray="2 2"'


@dataclass(frozen=True)
class Walk:
    """What is known after some blocks of one query and head.

    Args:
        scores: of each position, in order; those of blocks that were not visited are not looked at.
        block_ids: the request's block table.
        block_size: positions of a block.
        visited: logical blocks, in the order in which they were absorbed.
    """

    scores: Sequence[float]
    block_ids: Sequence[int]
    block_size: int
    visited: Sequence[int] = ()

    def positions(self, block: int) -> range:
        """The positions in a logical block that hold a token."""
        start = block * self.block_size
        return range(start, min(start + self.block_size, len(self.scores)))

    def highest_of(self, blocks: Sequence[int]) -> float:
        return max((self.scores[p] for block in blocks for p in self.positions(block)), default=-math.inf)

    @property
    def highest(self) -> float:
        return self.highest_of(self.visited)

    @property
    def weights(self) -> dict[int, float]:
        """exp(score - highest) of every position so far."""
        return {
            p: math.exp(self.scores[p] - self.highest)
            for block in self.visited
            for p in self.positions(block)
        }

    @property
    def total(self) -> float:
        return sum(self.weights.values())

    @property
    def rescale(self) -> float:
        """What the sums of the blocks before the last one were multiplied by; 1: nothing had to change."""
        before = self.highest_of(self.visited[:-1])
        return 1.0 if before == -math.inf else math.exp(before - self.highest)

    def tell(self) -> str:
        """The last step, in a sentence."""
        if not self.visited:
            return "Nothing seen yet: highest is -inf, total is 0."
        last = self.visited[-1]
        state = f"highest {self.highest:.1f}, total {self.total:.2f}"
        if len(self.visited) == 1:
            return f"Physical block {self.block_ids[last]} is the first: {state}."
        what = "no score here is higher, so the old sums stay"
        if self.rescale < 1:
            what = f"a higher score, so the old sums are multiplied by {self.rescale:.3f}"
        return f"Physical block {self.block_ids[last]}: {what}; {state}."


def draw_walk(walk: Walk) -> Drawing:
    """Scores, the running highest as a line, and the weights so far."""
    count = len(walk.scores)
    width = min(30.0, (PAGE - LEFT - MARGIN - GAP * len(walk.block_ids)) / count)
    low, high = math.floor(min(walk.scores)) - 1, math.ceil(max(walk.scores))
    shapes = [
        label(MARGIN, MARGIN + 16, "scores"),
        label(MARGIN, MARGIN + SCORES + BETWEEN + 20, "weights"),
        label(MARGIN, MARGIN + SCORES + BETWEEN + 36, "so far", 'class="mv-soft"', size=11),
    ]
    weights, now = walk.weights, walk.visited[-1] if walk.visited else None
    base = MARGIN + SCORES + BETWEEN + WEIGHTS + 16

    def left(position: int) -> float:
        return LEFT + position * width + position // walk.block_size * GAP

    def height(score: float) -> float:
        return round((score - low) / (high - low) * SCORES)

    for position, score in enumerate(walk.scores):
        block = position // walk.block_size
        style = NOW if block == now else SEEN if block in walk.visited else UNSEEN
        x, tall = left(position), height(score)
        top = MARGIN + 14 + SCORES - tall
        shapes.append(_bar(x, top, width, tall, f"{score:.1f}" if block in walk.visited else "", style))
        if position in weights:
            tall = round(weights[position] * WEIGHTS)
            shapes.append(_bar(x, base - tall, width, tall, _short(weights[position]), style))
    for block, block_id in enumerate(walk.block_ids):
        shapes += _names(left(walk.positions(block)[0]), block, block_id)
    if walk.visited:
        shapes += _highest(walk, left(count - 1) + width, MARGIN + 14 + SCORES - height(walk.highest))
    shapes.append(line(LEFT, base, left(count - 1) + width, base))
    return Drawing(PAGE, round(base + MARGIN), tuple(shapes), describe(walk), to_text(walk))


def _bar(x: float, y: float, width: float, height: float, content: str, style: str) -> str:
    bar = rect(x, y, width - 3, max(height, 1), style, radius=2)
    return group(
        [bar, label(x + (width - 3) / 2, y - 3, content, size=10, anchor="middle")] if content else [bar]
    )


def _short(weight: float) -> str:
    return "1" if weight == 1 else f"{weight:.2f}".lstrip("0") if weight >= 0.005 else "0"


def _names(x: float, block: int, block_id: int) -> list[str]:
    y = MARGIN + SCORES + 32
    return [
        label(x, y, f"block {block_id}", size=12),
        label(x, y + 14, f"logical {block}", 'class="mv-soft"', size=10),
    ]


def _highest(walk: Walk, right: float, y: float) -> list[str]:
    dashes = f'fill="none" stroke="{VERMILION}" stroke-width="2" stroke-dasharray="6 3"'
    return [
        line(LEFT, y, right, y, dashes),
        label(LEFT - 6, y - 4, "highest", size=11, anchor="end"),
        label(LEFT - 6, y + 9, f"{walk.highest:.1f}", size=12, anchor="end"),
    ]


def describe(walk: Walk) -> str:
    """One sentence with the numbers of the picture."""
    seen = [walk.block_ids[block] for block in walk.visited]
    return (
        f"{len(walk.scores)} scores in blocks {list(walk.block_ids)}; absorbed so far: {seen}. {walk.tell()}"
    )


def to_text(walk: Walk) -> str:
    """A line for each block: its scores and the weights they have so far."""
    lines, weights = [], walk.weights
    for block, block_id in enumerate(walk.block_ids):
        scores = " ".join(f"{walk.scores[p]:5.1f}" for p in walk.positions(block))
        shares = " ".join(f"{weights[p]:5.2f}" if p in weights else "    -" for p in walk.positions(block))
        mark = ">" if walk.visited and block == walk.visited[-1] else " "
        lines.append(f"{mark} block {block_id:>2}  scores {scores}  weights {shares}")
    return "\n".join(lines)


def walk_stepper(
    scores: Sequence[float],
    title: str = "The online softmax, block by block",
    *,
    block_ids: Sequence[int],
    block_size: int,
    order: Sequence[int] | None = None,
    start: int = 0,
) -> Stepper:
    """One frame before the first block, and one after each. `order`: logical blocks as they are visited."""
    order = range(len(block_ids)) if order is None else order
    walks = [Walk(scores, block_ids, block_size, order[:count]) for count in range(len(order) + 1)]
    return Stepper([Frame(draw_walk(walk), walk.tell()) for walk in walks], title, start)
