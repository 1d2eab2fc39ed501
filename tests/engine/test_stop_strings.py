"""Stop strings against a loop that looks at the text after every single character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.detokenizer import StopMatch, StopStrings

words = st.text("ab", min_size=1, max_size=4)
pieces_of_text = st.lists(st.text("abc", max_size=5), max_size=12)


def first_completed(text, stops):
    """(stop, begin, end): who is complete first while the text grows; the longest, if several end together."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return stop, end - len(stop), end
    return None


@given(st.lists(words, max_size=4), pieces_of_text, st.booleans())
def test_in_any_pieces_the_same_stop_string_ends_the_text_and_no_part_of_it_was_shown(stops, pieces, include):
    expected = first_completed("".join(pieces), stops)
    finder = StopStrings(stops, include)
    text, shown, match = "", 0, None
    for piece in pieces:
        text += piece
        match = finder.find(text, len(piece))
        if match is not None:
            break
        assert shown <= finder.num_visible_chars(text) <= len(text)
        shown = finder.num_visible_chars(text)
        if not include:
            assert (
                len(text) - shown <= max(map(len, stops), default=1) - 1
            )  # no more is held back than needed
    if expected is None:
        assert match is None
        return
    stop, begin, end = expected
    assert match == StopMatch(stop, end if include else begin)
    assert shown <= match.length


@pytest.mark.parametrize("text, stops, expected", [
    ("xab", ["ab", "b"], StopMatch("ab", 1)),  # both end here: the longer
    ("xabc", ["abc", "b"], StopMatch("b", 2)),  # b is complete before abc
    ("abab", ["ab"], StopMatch("ab", 0)),
    ("好🙂", ["🙂"], StopMatch("🙂", 1)),
    ("xy", ["ab"], None),
    ("xy", [], None),
])  # fmt: skip
def test_worked_examples(text, stops, expected):
    assert StopStrings(stops).find(text, len(text)) == expected


def test_only_what_the_new_characters_complete_is_found():
    """What was passed over while `min_tokens` were not reached stays passed over, also beside a longer stop string."""
    finder = StopStrings(["b", "a long one"])
    assert finder.find("xxbyy", 2) is None
    assert finder.find("xxbyy", 3) == StopMatch("b", 2)
    assert finder.find("xxbyyb", 1) == StopMatch("b", 5)
    assert finder.find("xxbyyb", 0) is None


def test_nothing_is_held_back_without_need():
    assert StopStrings([]).num_visible_chars("abc") == 3
    assert StopStrings(["x"]).num_visible_chars("abc") == 3
    assert StopStrings(["long", "x"]).num_visible_chars("abcde") == 2
    assert StopStrings(["long"]).num_visible_chars("ab") == 0
    assert StopStrings(["long"], include_in_output=True).num_visible_chars("abc") == 3
