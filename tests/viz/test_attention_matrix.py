"""The picture of attention shows the weights that it is given, and which rows were computed again."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.viz.attention_matrix import MAX_TOKENS, CostBar, draw_attention

NAMESPACE = "{http://www.w3.org/2000/svg}"


@st.composite
def triangles(draw):
    size = draw(st.integers(1, MAX_TOKENS))
    numbers = st.lists(st.integers(1, 100), min_size=size, max_size=size)
    rows = [draw(numbers) for _ in range(size)]
    return [[x / 100 if s <= t else 0.0 for s, x in enumerate(row)] for t, row in enumerate(rows)]


def texts(drawing):
    tree = ElementTree.fromstring(drawing.to_svg())
    return [element.text for element in tree.iter(f"{NAMESPACE}text")]


@given(triangles(), st.data())
def test_every_weight_is_in_the_picture_and_in_the_text(weights, data):
    size = len(weights)
    num_known = data.draw(st.none() | st.integers(0, size))
    tokens = [f"t{i}" for i in range(size)]
    drawing = draw_attention(weights, tokens, num_known=num_known)
    shown = [text for text in texts(drawing) if re.fullmatch(r"\d+", text)]
    assert shown == [str(round(100 * x)) for t, row in enumerate(weights) for x in row[: t + 1]]
    assert texts(drawing).count("again") == (num_known or 0)
    assert texts(drawing).count("new") == (0 if num_known is None else size - num_known)
    for t, line in enumerate(drawing.text.splitlines()):
        name, *cells = line.split()
        assert name == f"t{t}"
        assert cells == [str(round(100 * x)) for x in weights[t][: t + 1]] + ["."] * (size - t - 1)


def test_a_weight_in_the_future_is_shown_as_it_is():
    drawing = draw_attention([[0.5, 0.5], [0.25, 0.75]], ["a", "b"])
    assert drawing.text.splitlines()[0].split() == ["a", "50", "50"]
    assert texts(drawing).count("50") == 2


def test_the_picture_keeps_its_size_while_it_grows():
    sizes = {
        (drawing.width, drawing.height)
        for n in range(1, 6)
        for drawing in [draw_attention([[1.0] * n] * n, ["x"] * n, room=5, bars=[CostBar("all", 0.5, "7")])]
    }
    assert len(sizes) == 1


def test_it_tells_where_the_last_token_looks_and_what_the_bars_say():
    bars = [CostBar("this step", 0.25, "7 million operations")]
    drawing = draw_attention([[1.0, 0.0], [0.8, 0.2]], ["A", " cat\n"], bars=bars)
    assert "the last, _cat\\n, looks most at A, with 80%" in drawing.alt
    assert "this step: 7 million operations" in drawing.alt
    assert "7 million operations" in texts(drawing)


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match=f"room for at most {MAX_TOKENS} tokens, not {MAX_TOKENS + 1}"):
        draw_attention([[1.0]], ["x"], room=MAX_TOKENS + 1)
