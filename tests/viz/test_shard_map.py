"""The shard map: every number of every matrix is drawn with the ranks that hold it, and counted."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.viz.shard_map import COLORS, WIDTH, Matrix, Piece, draw_shards, held

NAMESPACE = "{http://www.w3.org/2000/svg}"
ROWS = Matrix("up", 8, 4, [Piece(0, 0, 4, 0, 4), Piece(1, 4, 4, 0, 4)])
COLUMNS = Matrix("down", 4, 8, [Piece(0, 0, 4, 0, 4), Piece(1, 0, 4, 4, 4)])
SHARED = Matrix("k", 4, 4, [Piece(0, 0, 2, 0, 4), Piece(1, 0, 2, 0, 4), Piece(2, 2, 2, 0, 4)])


def pieces(drawing):
    """(x, y, width, height, colour) of each piece, without the paper."""
    tree = ElementTree.fromstring(drawing.to_svg())
    found = [e.attrib for e in tree.iter(f"{NAMESPACE}rect") if e.get("fill") in COLORS]
    return [(*(float(e[key]) for key in ("x", "y", "width", "height")), e["fill"]) for e in found]


def test_a_matrix_is_cut_by_rows_or_by_columns():
    drawing = draw_shards([ROWS, COLUMNS])
    top, bottom, left, right = pieces(drawing)
    assert top[:1] + top[2:4] == (16, 80, 80) and bottom[1] == top[1] + 80 and bottom[0] == top[0]
    assert left[2:4] == (80, 80) and right[0] == left[0] + 80 and right[1] == left[1]
    assert [piece[4] for piece in (top, bottom, left, right)] == [COLORS[0], COLORS[1]] * 2
    assert drawing.text.splitlines() == [
        "up         [8, 4]   0: rows 0-3   1: rows 4-7",
        "down       [4, 8]   0: columns 0-3   1: columns 4-7",
    ]
    assert drawing.alt == "2 matrices with 64 numbers in all; of these hold rank 0 50%, rank 1 50%"


def test_what_two_ranks_hold_is_drawn_once_with_both_names():
    drawing = draw_shards([SHARED])
    assert len(pieces(drawing)) == 2
    assert ">0+1<" in drawing.to_svg() and ">2<" in drawing.to_svg()
    assert "0+1: rows 0-1   2: rows 2-3" in drawing.text
    assert [held([SHARED], rank) for rank in range(4)] == [8, 8, 8, 0]


def test_an_empty_piece_is_not_drawn():
    drawing = draw_shards([Matrix("head", 2, 4, [Piece(0, 0, 2, 0, 4), Piece(1, 2, 0, 0, 4)])])
    assert len(pieces(drawing)) == 1 and "0: all" in drawing.text
    assert "rank 0 100%, rank 1 0%" in drawing.alt


@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_many_matrices_stay_on_the_page(count):
    drawing = draw_shards([ROWS, COLUMNS] * count)
    for x, y, width, height, _ in pieces(drawing):
        assert x + width <= WIDTH and y + height <= drawing.height


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 8))
def test_pieces_fill_the_matrix(num_rows, num_columns, size):
    each = -(-num_rows // size)
    cut = [Piece(r, r * each, max(0, min(each, num_rows - r * each)), 0, num_columns) for r in range(size)]
    drawn = pieces(draw_shards([Matrix("m", num_rows, num_columns, cut)]))
    assert sum(height for *_, height, _ in drawn) == pytest.approx(
        max(26, 160 * num_rows / max(num_rows, num_columns)), abs=0.1 * len(drawn) + 0.1
    )
