"""Who holds what: the matrices of a layer, each as a rectangle, cut into what single ranks hold.

The pieces are given, not computed here: the picture shows what a plan, or somebody's code, gives to each rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.viz.drawing import Drawing, group, label, rect
from minivllm.viz.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION, YELLOW, ink_on

WIDTH, MARGIN, TOP, SIDE, GAP, MIN_SIDE = 840, 16, 34, 160, 24, 26
COLORS = (BLUE, ORANGE, GREEN, YELLOW, VERMILION, SKY_BLUE, PURPLE, BLACK)  # of rank 0, 1, ...


@dataclass(frozen=True)
class Piece:
    """Rows and columns of a matrix that one rank holds."""

    rank: int
    first_row: int
    num_rows: int
    first_column: int
    num_columns: int

    @property
    def place(self) -> tuple[int, int, int, int]:
        return self.first_row, self.num_rows, self.first_column, self.num_columns


@dataclass(frozen=True)
class Matrix:
    """A matrix of the checkpoint, [rows, columns], and who holds which piece of it."""

    name: str
    num_rows: int
    num_columns: int
    pieces: Sequence[Piece]


def draw_shards(matrices: Sequence[Matrix]) -> Drawing:
    """All matrices side by side, in as many lines as it takes. Sides are drawn to one scale, none below `MIN_SIDE`."""
    scale = SIDE / max(max(matrix.num_rows, matrix.num_columns) for matrix in matrices)
    shapes: list[str] = []
    x, y, tallest = float(MARGIN), float(TOP), 0.0
    for matrix in matrices:
        width, height = _side(matrix.num_columns, scale), _side(matrix.num_rows, scale)
        room = max(width, 8.0 * len(matrix.name), 78)
        if x + room > WIDTH - MARGIN:
            x, y, tallest = float(MARGIN), y + tallest + TOP + 34, 0.0
        shapes += _matrix(matrix, x, y, width, height)
        x, tallest = x + room + GAP, max(tallest, height)
    return Drawing(WIDTH, round(y + tallest + 36), tuple(shapes), describe(matrices), to_text(matrices))


def describe(matrices: Sequence[Matrix]) -> str:
    """One sentence with each rank's share of all numbers."""
    ranks = sorted({piece.rank for matrix in matrices for piece in matrix.pieces})
    whole = sum(matrix.num_rows * matrix.num_columns for matrix in matrices)
    shares = ", ".join(f"rank {rank} {held(matrices, rank) / whole:.0%}" for rank in ranks)
    return f"{len(matrices)} matrices with {whole:,} numbers in all; of these hold {shares}"


def held(matrices: Sequence[Matrix], rank: int) -> int:
    """How many numbers a rank holds."""
    mine = [piece for matrix in matrices for piece in matrix.pieces if piece.rank == rank]
    return sum(piece.num_rows * piece.num_columns for piece in mine)


def to_text(matrices: Sequence[Matrix]) -> str:
    """A line for each matrix: its size, and the rows and columns of each rank."""
    width = max(len(matrix.name) for matrix in matrices)
    lines = []
    for matrix in matrices:
        told = [f"{'+'.join(map(str, ranks))}: {_told(matrix, piece)}" for ranks, piece in _holders(matrix)]
        size = f"[{matrix.num_rows}, {matrix.num_columns}]"
        lines.append(f"{matrix.name.ljust(width)} {size:>12}   {'   '.join(told)}")
    return "\n".join(lines)


def _told(matrix: Matrix, piece: Piece) -> str:
    rows = f"rows {piece.first_row}-{piece.first_row + piece.num_rows - 1}"
    columns = f"columns {piece.first_column}-{piece.first_column + piece.num_columns - 1}"
    if piece.num_columns == matrix.num_columns:
        return "all" if piece.num_rows == matrix.num_rows else rows
    return columns if piece.num_rows == matrix.num_rows else f"{rows}, {columns}"


def _holders(matrix: Matrix) -> list[tuple[list[int], Piece]]:
    """Each piece once, with all ranks that hold it."""
    found: dict[tuple[int, int, int, int], list[Piece]] = {}
    for piece in matrix.pieces:
        if piece.num_rows and piece.num_columns:
            found.setdefault(piece.place, []).append(piece)
    return [([piece.rank for piece in pieces], pieces[0]) for pieces in found.values()]


def _side(length: int, scale: float) -> float:
    return max(MIN_SIDE, length * scale)


def _matrix(matrix: Matrix, x: float, y: float, width: float, height: float) -> list[str]:
    shapes = [label(x, y - 8, matrix.name)]
    across, down = width / matrix.num_columns, height / matrix.num_rows
    for ranks, piece in _holders(matrix):
        left, top = x + piece.first_column * across, y + piece.first_row * down
        wide, tall = piece.num_columns * across, piece.num_rows * down
        color = COLORS[ranks[0] % len(COLORS)]
        shape = [rect(left, top, wide, tall, f'fill="{color}" stroke="{BLACK}"')]
        name = "+".join(map(str, ranks))
        if tall >= 9 and wide >= 8 * len(name):
            ink = f'fill="{ink_on(color)}"'
            shape.append(label(left + wide / 2, top + tall / 2 + 3.5, name, ink, size=10, anchor="middle"))
        shapes.append(group(shape))
    size = f"[{matrix.num_rows}, {matrix.num_columns}]"
    return [*shapes, label(x, y + height + 16, size, 'class="mv-soft"', size=11)]
