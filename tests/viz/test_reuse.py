"""The picture of reuse: every cell against a walk through the steps, token by token."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.viz.reuse import draw_reuse, letters, reuse_stepper

NAMESPACE = "{http://www.w3.org/2000/svg}"
NAIVE = [(0, 4), (0, 5), (0, 6)]
CACHED = [(0, 4), (4, 5), (5, 6)]


@st.composite
def stories(draw):
    """Steps that each compute the next tokens, and perhaps some of the old ones again."""
    steps, known = [], 0
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, known))
        stop = known + draw(st.integers(1, 3))
        steps.append((start, stop))
        known = stop
    return steps


@given(stories())
def test_each_letter_is_what_happens_to_the_token(steps):
    seen = set()
    for row, (start, stop) in zip(letters(steps), steps, strict=True):
        for position in range(stop):
            computed = start <= position < stop
            expected = ("a" if position in seen else "n") if computed else "r"
            assert row[position] == expected
            if computed:
                seen.add(position)
        assert len(row) == stop


def cells(drawing):
    """The letters in the picture, without those of the legend."""
    tree = ElementTree.fromstring(drawing.to_svg())
    return "".join(e.text for e in tree.iter(f"{NAMESPACE}text") if e.text in ("n", "a", "r"))[3:]


def test_the_picture_holds_the_cells_of_the_steps_so_far():
    panels = {"naive": NAIVE, "cache": CACHED}
    assert cells(draw_reuse(panels)) == "nnnn" + "aaaan" + "aaaaan" + "nnnn" + "rrrrn" + "rrrrrn"
    assert cells(draw_reuse(panels, 1)) == "nnnnnnnn"


def test_the_sums_stand_in_alt_and_text():
    drawing = draw_reuse({"naive": NAIVE, "cache": CACHED})
    assert drawing.alt == "naive: 15 computed, 0 reused in 3 steps; cache: 6 computed, 9 reused in 3 steps"
    assert "   2 aaaan" in drawing.text and "   2 rrrrn" in drawing.text


def test_the_stepper_goes_on_until_the_longest_is_done():
    stepper = reuse_stepper({"naive": NAIVE, "short": [(0, 6)]})
    captions = [frame.caption for frame in stepper.frames]
    assert captions[0] == "Step 1. naive: 4 computed, 0 reused; short: 6 computed, 0 reused."
    assert captions[2] == "Step 3. naive: 6 computed, 0 reused; short: done."
    assert len({(frame.drawing.width, frame.drawing.height) for frame in stepper.frames}) == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="too long to stand side by side"):
        draw_reuse({"long": [(0, 60)]})
