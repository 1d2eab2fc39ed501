"""The map of the course: what stands where, and what a chapter that needs a missing one is told."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.viz.prerequisites import HEIGHT, WIDTH, Stop, prerequisite_map


@st.composite
def courses(draw):
    stops = []
    for number in range(draw(st.integers(1, 12))):
        needs = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=3)) if number else []
        stops.append(
            Stop(number, draw(st.text("abc de", min_size=1, max_size=40)), tuple(needs), f"{number}.html")
        )
    return stops


def corners(drawing):
    """The upper left corner of each box, in drawing order."""
    boxes = [shape for shape in drawing.shapes if shape.startswith("<a ")]
    return [tuple(map(float, re.search(r'<rect x="([\d.]+)" y="([\d.]+)"', box).groups())) for box in boxes]


@given(courses())
def test_boxes_never_overlap_and_stand_below_what_they_need(stops):
    drawing = prerequisite_map(stops)
    places = corners(drawing)
    assert len(places) == len(stops)
    for i, (x, y) in enumerate(places):
        assert 0 <= x <= drawing.width - WIDTH and 0 <= y <= drawing.height - HEIGHT
        for other_x, other_y in places[:i]:
            assert abs(x - other_x) >= WIDTH or abs(y - other_y) >= HEIGHT
        for needed in stops[i].needs:
            assert places[needed][1] + HEIGHT < y


@given(courses())
def test_no_arrow_goes_behind_a_box(stops):
    drawing = prerequisite_map(stops)
    paths = [re.search(r'd="([^"]+)"', shape)[1] for shape in drawing.shapes if shape.startswith("<path")]
    assert len(paths) == sum(len(stop.needs) for stop in stops)
    for path in paths:
        x, y = map(float, re.match(r"M(\S+) ([\d.]+)", path).groups())
        for piece in re.findall(r"c[^a-z]+|v[^a-z]+", path):
            steps = [float(part) for part in re.findall(r"-?[\d.]+", piece)]
            if piece[0] == "v":  # beside the boxes of a row
                beside = [left for left, top in corners(drawing) if top == y]
                assert beside and all(not left < x < left + WIDTH for left in beside)
                y += steps[0]
            else:  # from row to row, where no box is
                assert all(not y < top < y + steps[5] for _, top in corners(drawing))
                x, y = x + steps[4], y + steps[5]


def test_the_words_say_the_same_as_the_picture():
    drawing = prerequisite_map(
        [Stop(0, "First token"), Stop(3, "Fragmentation", (0,), "3.html", "plain Python")]
    )
    assert drawing.text == "00 First token\n03 Fragmentation (after 00)"
    assert 'href="3.html"' in drawing.to_svg() and "plain Python" in drawing.to_svg()


def test_a_chapter_that_needs_a_later_one_is_refused():
    with pytest.raises(ValueError, match=r"chapter 3 needs \[4\], which do not stand before it"):
        prerequisite_map([Stop(3, "Fragmentation", (4,)), Stop(4, "Block table")])
