"""The timeline of messages: order and waiting against small stories worked out by hand."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.viz.timeline import STYLES, WIDTH, Call, Said, draw_timeline, in_order

NAMESPACE = "{http://www.w3.org/2000/svg}"
SUM, PIECES, SEND, WAIT = (Said(kind, 8) for kind in ("all_reduce", "all_gather", "send", "receive"))


def times(row):
    return [(call.kind, call.start, call.end) for call in row]


def test_a_sum_takes_one_unit_and_computing_another():
    calls = in_order([[SUM, SUM, PIECES]] * 2, tensor=2)
    assert times(calls[0]) == times(calls[1])
    assert times(calls[0]) == [("all_reduce", 1, 2), ("all_reduce", 3, 4), ("all_gather", 5, 6)]


def test_the_next_stage_waits_for_what_is_sent():
    calls = in_order([[SEND, SEND], [WAIT, WAIT]], tensor=1)
    assert times(calls[0]) == [("send", 1, 2), ("send", 3, 4)]
    assert times(calls[1]) == [("receive", 0, 2.5), ("receive", 2.5, 4.5)]


def test_two_stages_of_two_ranks():
    first, last = [SUM, SEND, SUM, SEND], [WAIT, SUM, PIECES, WAIT, SUM, PIECES]
    calls = in_order([first, first, last, last], tensor=2)
    assert calls[0] == calls[1] and calls[2] == calls[3]
    assert times(calls[0])[-1] == ("send", 7, 8)
    assert times(calls[2]) == [
        ("receive", 0, 4.5),
        ("all_reduce", 5.5, 6.5),
        ("all_gather", 7.5, 8.5),
        ("receive", 8.5, 9.0),  # it has been there for a while
        ("all_reduce", 10.0, 11.0),
        ("all_gather", 12.0, 13.0),
    ]


@pytest.mark.parametrize("said", [[[SUM], []], [[SUM, SUM], [SUM]], [[], [WAIT]]])
def test_waiting_for_ever_is_a_sentence(said):
    with pytest.raises(ValueError, match=r"ranks \[\d\] wait for messages that nobody sends"):
        in_order(said, tensor=1 if WAIT in said[1] else 2)


@given(st.lists(st.sampled_from([SUM, PIECES]), max_size=6), st.integers(1, 4))
def test_no_rank_says_two_things_at_once(story, tensor):
    for row in in_order([story] * tensor, tensor):
        assert len(row) == len(story)
        assert all(one.end < other.start for one, other in zip(row, row[1:], strict=False))


def bars(drawing):
    tree = ElementTree.fromstring(drawing.to_svg())
    colors = {style[0]: kind for kind, style in STYLES.items()}
    found = [e.attrib for e in tree.iter(f"{NAMESPACE}rect") if e.get("stroke-width") == ".5"]
    return [(colors[e["fill"]], float(e["x"]), float(e["width"]), float(e["y"])) for e in found]


def test_every_message_is_a_bar_at_its_time():
    calls = [
        [Call("all_reduce", 1000, 2.0, 4.0), Call("send", 24, 6.0, 8.0)],
        [Call("receive", 24, 0.0, 8.0)],
    ]
    drawing = draw_timeline(calls, tensor=1, unit="ms")
    drawn = bars(drawing)
    assert [kind for kind, *_ in drawn] == ["all_reduce", "send", "receive"]
    assert drawn[0][1] == pytest.approx(76 + 748 / 4, abs=0.1) and drawn[0][2] == pytest.approx(
        748 / 4, abs=0.1
    )
    assert drawn[2][1] == 76 and drawn[2][1] + drawn[2][2] == pytest.approx(WIDTH - 16, abs=0.1)
    assert drawn[0][3] == drawn[1][3] != drawn[2][3]
    assert "8 ms" in drawing.to_svg() and "4 ms" in drawing.to_svg()
    assert drawing.alt == "rank 0: 1 all_reduce, 1 send, 1,024 bytes; rank 1: 1 receive, 24 bytes"
    assert drawing.text.splitlines()[:2] == ["rank 0 Rs", "rank 1 w"]


def test_a_silent_rank():
    drawing = draw_timeline([[]], tensor=1)
    assert bars(drawing) == [] and drawing.alt == "rank 0: silent, 0 bytes"
