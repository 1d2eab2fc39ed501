"""The Stepper: the same bytes each time, nothing from outside, and every frame as its renderer drew it."""

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.viz.drawing import Drawing, group, label, rect
from minivllm.viz.stepper import MAX_FRAMES, Frame, Stepper, explore


def make_frame(words, width=100):
    shapes = tuple(label(0, 10 * i, word) for i, word in enumerate(words))
    return Frame(Drawing(width, 50, shapes, alt=f"{len(words)} words", text=" ".join(words)), f"says {words}")


def data_of(html):
    """The frames as the script reads them."""
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)
    return json.loads(text)


def shapes_of(data, index):
    return [data["shapes"][i] for i in data["frames"][index]["shapes"]]


class Balanced(HTMLParser):
    """Reads a page, and remembers open tags and what they were."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("img", "input", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


WORDS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8), max_size=5
)


@given(st.lists(WORDS, min_size=1, max_size=6), st.data())
def test_every_frame_arrives_as_it_was_drawn(stories, data):
    frames = [make_frame(words) for words in stories]
    start = data.draw(st.integers(0, len(frames) - 1))
    html = Stepper(frames, "A story <of> words & more", start).to_html()
    sent = data_of(html)
    assert sent["start"] == start
    for index, frame in enumerate(frames):
        assert shapes_of(sent, index) == list(frame.drawing.shapes)
        assert sent["frames"][index]["caption"] == frame.caption
        assert sent["frames"][index]["alt"] == frame.drawing.alt
    assert len(sent["shapes"]) == len(set(sent["shapes"]))  # each distinct shape is sent once
    page = Balanced()
    page.feed(html)
    assert page.open == []


def test_the_bytes_depend_on_the_content_alone():
    one, same, other = (Stepper([make_frame(words)], "t").to_html() for words in (["a"], ["a"], ["b"]))
    assert one == same
    names = [re.search(r'id="(mv-\w+)"', html)[1] for html in (one, other)]
    assert names[0] != names[1]


def test_without_a_script_one_frame_stands_still_with_its_description():
    stepper = Stepper([make_frame(["first"]), make_frame(["second", "one"])], "t", start=1)
    page = Balanced()
    page.feed(stepper.to_html())
    (image,) = [attrs for tag, attrs in page.seen if tag == "img"]
    assert image["alt"] == "2 words"
    svg = base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,"))
    assert svg.decode() == stepper.frames[1].drawing.to_svg()
    root = ElementTree.fromstring(svg)
    assert root.find("{http://www.w3.org/2000/svg}title").text == "2 words"
    (controls,) = [attrs for tag, attrs in page.seen if attrs.get("class") == "mv-controls"]
    assert "hidden" in controls


def test_nothing_is_loaded_from_anywhere():
    html = Stepper([make_frame(["http://example.com"])], "t").to_html()
    page = Balanced()
    page.feed(html)
    loaded = [value for _, attrs in page.seen for name, value in attrs.items() if name in ("src", "href")]
    assert all(value.startswith("data:") for value in loaded)
    assert "@import" not in html and "url(" not in html


def test_a_text_cannot_leave_its_place():
    nasty = "</script><script>alert(1)</script>"
    frame = Frame(make_frame([nasty]).drawing, nasty)
    html = Stepper([frame], '"><b>').to_html()
    assert html.count("<script") == 2 and "<b>" not in html


def test_explore_draws_every_combination_in_order():
    def draw(size, color):
        return make_frame([f"{size}", color])

    stepper = explore(draw, "t", size=[1, 2], color=["red", "blue", "green"])
    sent = data_of(stepper.to_html())
    assert sent["axes"] == [["1", "2"], ["red", "blue", "green"]]
    captions = [frame["caption"] for frame in sent["frames"]]
    assert captions == [f"says {[size, color]}" for size in "12" for color in ("red", "blue", "green")]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Stepper([], "t"), "1 to 400 frames, not 0"),
        (lambda: Stepper([make_frame([])] * (MAX_FRAMES + 1), "t"), "draw fewer steps"),
        (lambda: Stepper([make_frame([])], "t", start=1), "start must be one of the frames 0 to 0, not 1"),
        (lambda: explore(lambda **_: make_frame([]), "t", a=range(21), b=range(20)), "420 pictures"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_drawing_alone_is_an_svg_with_a_title_and_a_text():
    drawing = Drawing(40, 20, (group([rect(0, 0, 9, 9, 'class="mv-ink"')], go=3),), alt="a < b", text="a")
    bundle = drawing._repr_mimebundle_()
    root = ElementTree.fromstring(bundle["image/svg+xml"])
    assert root.get("width") == "40" and root.find("{http://www.w3.org/2000/svg}title").text == "a < b"
    assert bundle["text/plain"] == "a"


def test_live_draws_when_asked(capsys):
    pytest.importorskip("ipywidgets")
    from minivllm.viz.stepper import live

    widget = live(lambda size: make_frame([f"{size}"]), size=(1, 3))
    widget.children[0].value = 3
    widget.update()
    assert widget.kwargs == {"size": 3}
