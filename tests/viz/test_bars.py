"""Bars: as long as their values say, told in words too, and inside the picture."""

import re

import pytest

from minivllm.viz.bars import LONGEST, WIDTH, Bar, Bars, draw_bars

GROUPS = [
    Bars("Steps", [Bar("ours", 50, "50"), Bar("theirs <old>", 200, "200", is_ours=False)]),
    Bars("Nothing", [Bar("ours", 0, "0"), Bar("theirs", 0, "0", is_ours=False)]),
]


def lengths(svg):
    return [float(found) for found in re.findall(r'<rect x="16" y="[\d.]+" width="([\d.]+)"', svg)]


def test_bars_are_as_long_as_their_values():
    first, second, *empty = lengths(draw_bars(GROUPS).to_svg())
    assert second == LONGEST and first == pytest.approx(LONGEST / 4, abs=0.1)
    assert empty == [1, 1]  # something to see, of a scale without length


def test_words_carry_every_number_and_markup_stays_out():
    drawing = draw_bars(GROUPS)
    assert drawing.alt == "Steps: ours 50, theirs <old> 200. Nothing: ours 0, theirs 0."
    assert "theirs &lt;old&gt;" in drawing.to_svg() and "<old>" not in drawing.to_svg()
    ours, theirs = drawing.text.splitlines()[1:3]
    assert ours.count("#") == 10 and theirs.count("/") == 40


def test_ours_and_the_others_differ_in_more_than_colour():
    svg = draw_bars(GROUPS).to_svg()
    assert svg.count('fill="url(#mv-other)"') == 2 and 'id="mv-other"' in svg


def test_everything_lies_inside():
    drawing = draw_bars(GROUPS)
    ys = [float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)"', drawing.to_svg())]
    assert max(ys) < drawing.height and LONGEST + 16 < WIDTH
