"""Bars of tokens: what is drawn and told is what was given."""

import re
from xml.etree import ElementTree

import pytest

from minivllm.viz.palette import BLUE, GREY
from minivllm.viz.token_bars import BARS, MARGIN, WIDTH, bars_frame, bars_stepper, draw_token_bars, token_at

NAMES = {3: "cat", 1: " dog"}
MODEL = [0.125, 0.25, 0.125, 0.5]
NOW = [0.0, 0.25, 0.0, 0.75]


def rects(drawing, color):
    tree = ElementTree.fromstring(drawing.to_svg())
    return [e.attrib for e in tree.iter() if e.tag.endswith("rect") and e.get("fill") == color]


def test_bars_are_as_long_as_the_probabilities():
    drawing = draw_token_bars(NAMES, MODEL, NOW)
    pale = [float(bar["width"]) for bar in rects(drawing, GREY) if "stroke" not in bar]
    full = [float(bar["width"]) for bar in rects(drawing, BLUE) if "stroke" not in bar]
    assert pale == pytest.approx([BARS * 0.5 / 0.75, BARS * 0.25 / 0.75, BARS * 0.25 / 0.75], abs=1)
    assert full == pytest.approx([BARS, BARS / 3], abs=1)


def test_the_text_and_the_alt_say_the_same():
    frame = bars_frame(NAMES, MODEL, NOW, "Cut.")
    lines = frame.drawing.text.splitlines()
    assert lines[1].split() == ["'cat'", "50.0%", "75.0%", "#" * 30]
    assert lines[3].endswith("0.0% x dropped")
    assert frame.caption == "Cut. 2 of 4 tokens can be drawn; the likeliest is 'cat' with 75.0%."
    assert frame.caption in frame.drawing.alt and "'all others' dropped" in frame.drawing.alt
    assert "x dropped" in frame.drawing.to_svg()


def test_the_ruler_has_the_tokens_in_the_order_of_ids():
    drawing = draw_token_bars(NAMES, MODEL, MODEL)
    tree = ElementTree.fromstring(drawing.to_svg())
    outlines = [e.get("d") for e in tree.iter() if e.tag.endswith("path") and e.get("stroke")]
    found = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v", "".join(outlines))
    pieces = sorted((float(x), float(width)) for x, _, width in found)
    length = WIDTH - 2 * MARGIN
    assert [width for _, width in pieces] == pytest.approx([length * share for share in MODEL], abs=0.1)
    ends = [MARGIN + length * share for share in (0, 0.125, 0.375, 0.5)]
    assert [x for x, _ in pieces] == pytest.approx(ends, abs=0.1)
    y = str(int(found[0][1]) + 18)
    written = [e.text for e in tree.iter() if e.tag.endswith("text") and e.get("y") == y]
    assert written == [" dog", "cat"]


@pytest.mark.parametrize(("random", "token"), [(0.0, 1), (0.249, 1), (0.25, 3), (0.999, 3)])
def test_the_mark_stands_on_the_token_that_is_drawn(random, token):
    assert token_at(NOW, random) == token
    frame = bars_frame(NAMES, MODEL, NOW, "Draw.", random=random)
    assert frame.caption.endswith(f"The random number {random:.3f} draws {NAMES[token]!r}.")
    assert f"M{MARGIN + random * (WIDTH - 2 * MARGIN):.1f}".removesuffix(".0") in frame.drawing.to_svg()


def test_a_token_without_a_name_is_told_by_its_id():
    frame = bars_frame(NAMES, MODEL, [0.9, 0.1, 0.0, 0.0], "Odd.", random=0.5)
    assert "the likeliest is token 0" in frame.caption and frame.caption.endswith("draws 'token 0'.")


def test_the_stepper_has_a_frame_for_each_stage_and_one_for_the_draw():
    stepper = bars_stepper(NAMES, {"The model.": MODEL, "Top-k 2.": NOW}, "A token", random=0.3)
    assert len(stepper.frames) == 3
    assert [frame.caption.split(".")[0] for frame in stepper.frames] == [
        "The model",
        "Top-k 2",
        "The draw: one place on the ruler",
    ]
    assert "0.300" in stepper.frames[2].drawing.to_svg() and "0.300" not in stepper.frames[1].drawing.to_svg()
    lengths = {rects(frame.drawing, GREY)[0]["width"] for frame in stepper.frames}
    assert len(lengths) == 1  # the model's own bars stay as they are
