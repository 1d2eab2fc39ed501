"""Pictures of rounding: what is drawn and told is what was given."""

import re
from xml.etree import ElementTree

import pytest

from minivllm.viz.palette import ORANGE, SKY_BLUE, VERMILION
from minivllm.viz.rounding import PAGE_WIDTH, draw_groups, draw_rounding
from minivllm.viz.salience import Tried, salience_stepper

WEIGHTS = [-0.6, -0.55, -0.2, 0.0, 0.02, 0.3, 0.9]
GRID = [round(-0.6 + 0.1 * i, 10) for i in range(16)]
RESTORED = [-0.6, -0.5, -0.2, 0.0, 0.0, 0.3, 0.9]


def shapes(drawing, tag, color):
    """The attributes of all elements with that fill or stroke; the SVG has to be well-formed."""
    tree = ElementTree.fromstring(drawing.to_svg())
    found = (element.attrib for element in tree.iter() if element.tag.endswith(tag))
    return [found for found in found if color in (found.get("fill"), found.get("stroke"))]


def test_rounding_shows_every_number_that_is_used_and_how_often():
    drawing = draw_rounding(WEIGHTS, RESTORED, GRID, span=1.0)
    after = shapes(drawing, "rect", VERMILION)
    assert len(after) == 6
    assert sorted(float(bar["height"]) for bar in after)[-1] == 2 * min(float(bar["height"]) for bar in after)
    middles = [float(bar["x"]) + float(bar["width"]) / 2 for bar in after]
    assert middles == sorted(middles) and 100 < middles[0] < middles[-1] < PAGE_WIDTH
    assert "rounded to a grid of 16 numbers from -0.600 to 0.900; 6 of the numbers are used" in drawing.alt
    lines = drawing.text.splitlines()
    assert len(lines) == 16 and lines[6].split() == ["6", "=", "0.000", "##"]


def test_the_histogram_counts_every_weight_and_cuts_at_the_edge():
    drawing = draw_rounding([*WEIGHTS, 5.0], [*RESTORED, 0.9], GRID, span=1.0, num_bins=4)
    before = shapes(drawing, "rect", SKY_BLUE)
    heights = [float(bar["height"]) for bar in before]  # bins: 2, 1, 3, 2
    assert [round(height / max(heights), 2) for height in heights] == [0.67, 0.33, 1.0, 0.67]
    assert max(float(bar["x"]) + float(bar["width"]) for bar in before) <= PAGE_WIDTH


def test_a_long_grid_is_told_in_one_sentence():
    grid = [i / 100 for i in range(-60, 100)]
    drawing = draw_rounding(WEIGHTS, WEIGHTS, grid, span=1.0)
    assert drawing.text == drawing.alt


def test_groups_have_their_steps_and_their_errors():
    errors = [0.01, -0.01, 0.01, -0.01, 0.04, 0.03, 0.0, -0.05]
    drawing = draw_groups([0.1] * 8, errors, [0.02, 0.1], max_weight=1.0, max_error=0.05)
    (bars,) = shapes(drawing, "path", ORANGE)
    heights = [float(found) for found in re.findall(r"v(-?[\d.]+)", bars["d"])]
    assert [round(-height / 55, 1) for height in heights] == [0.2, -0.2, 0.2, -0.2, 0.8, 0.6, 0.0, -1.0]
    assert "2 groups of 4" in drawing.alt and "from 0.0100 to 0.0354" in drawing.alt
    assert drawing.text.splitlines()[1].startswith("group  1: step 0.1000, error 0.0354")
    assert "step 0.100" in drawing.to_svg()


@pytest.fixture
def stepper():
    tried = [
        Tried(0.0, [1.0, 1.0, 1.0, 1.0], [1.0, 6.0, 2.0, 1.0], 10.0),
        Tried(0.5, [1.0, 3.0, 2.0, 0.5], [1.0, 1.0, 0.5, 2.5], 5.0),
        Tried(1.0, [1.0, 9.0, 4.0, 0.2], [1.0, 0.1, 0.1, 9.0], 12.0),
    ]
    return salience_stepper([1.0, 9.0, 4.0, 0.3], tried, "Scales")


def test_salience_says_what_each_alpha_did(stepper):
    captions = [frame.caption for frame in stepper.frames]
    assert "alpha 0.50: the outputs' error is 0.50 times" in captions[1] and "smallest" in captions[1]
    assert "smallest" not in captions[0] + captions[2]
    assert "The 1 most important channels bring in 60% of it." in captions[0]
    assert captions[1].endswith("bring in 10% of what all did at alpha 0, instead of 60%.")
    assert "from 3.00 (most important) to 0.50" in stepper.frames[1].drawing.alt
    assert stepper.axes == {"alpha": ["0.00", "0.50", "1.00"]}


def test_salience_draws_channels_by_importance(stepper):
    bars = shapes(stepper.frames[1].drawing, "rect", VERMILION)
    heights = [int(bar["height"]) for bar in bars]  # channels 1, 2, 0, 3
    assert heights == [round(100 * (value / (1.25 * 6.0)) ** 0.5) for value in (1.0, 0.5, 1.0, 2.5)]
    too_high = shapes(stepper.frames[2].drawing, "rect", VERMILION)[-1]
    assert int(too_high["height"]) == 100
    first = stepper.frames[1].drawing.text.splitlines()[1].split()
    assert first == ["1", "9.00", "3.00", "1.00", "0.17"]
