"""Panels: every value stands where its scale puts it, in the picture and in the text."""

import re
from xml.etree import ElementTree

import pytest

from minivllm.viz.panels import Line, Panel, draw_panels

SVG = "{http://www.w3.org/2000/svg}"
PANELS = [
    Panel("Latency", [Line("median", [10, 20, None, 40]), Line("p99", [40, 40, 40, 40])], "ms"),
    Panel("Leaks", [Line("blocks", [0, 0, 0, 0])]),
]


def paths(drawing):
    """The points of every line of values, in the order in which they were drawn."""
    root = ElementTree.fromstring(drawing.to_svg())
    drawn = [one.get("d") for one in root.iter(f"{SVG}path") if one.get("stroke-width") == "2.5"]
    points = [[tuple(map(float, point.split())) for point in d.removeprefix("M").split("L")] for d in drawn]
    return [line for line in points if len(line) > 2]  # the other is the sample beside the name


def test_points_lie_on_the_scale_of_their_panel():
    (median, p99, blocks) = paths(draw_panels(PANELS, "minute", [1, 2, 3, 4]))
    top = p99[0][1]
    assert {y for _, y in p99} == {top}
    heights = [median[0][1] - top, median[1][1] - top, median[2][1] - top]
    assert heights[2] == 0 and heights[0] == pytest.approx(1.5 * heights[1])  # 30 and 20 below the top of 40
    assert len(median) == 3 and len({y for _, y in blocks}) == 1
    left, right = p99[0][0], p99[-1][0]
    assert [x for x, _ in p99] == pytest.approx([left + i * (right - left) / 3 for i in range(4)], abs=0.1)


def test_text_and_description_hold_the_numbers():
    drawing = draw_panels(PANELS, "minute", [1, 2, 3, 4])
    lines = drawing.text.splitlines()
    assert lines[0] == "Latency (ms)"
    marks = {line.split()[0]: re.search(r"\|(.*)\|", line)[1] for line in lines if "|" in line}
    assert marks["blocks"] == "    " and marks["p99"] == "@@@@" and marks["median"][2] == "?"
    assert marks["median"][0] != marks["median"][1] != marks["median"][3] == "@"
    assert "median 10 to 40" in drawing.alt and "blocks 0" in drawing.alt and "minute 1 to 4" in drawing.alt


def test_lines_can_be_told_apart_without_colour():
    svg = draw_panels(PANELS, "minute", [1, 2, 3, 4]).to_svg()
    assert "stroke-dasharray" in svg
    names = re.findall(r'<text x="742" y="([\d.]+)"[^>]*>([^<]*)', svg)
    heights = sorted(float(y) for y, name in names if name in ("median", "p99"))
    assert len(heights) == 2 and heights[1] - heights[0] >= 14  # both end at the same height


def test_one_point_and_unknown_values_can_be_drawn():
    drawing = draw_panels([Panel("Memory", [Line("resident", [None])], "MiB")], "minute", [1])
    assert "unknown" in drawing.alt and "?" in drawing.text
