"""A history is a program; a law that breaks says so in the words of the course."""

import pytest

from minivllm.course.grading import Implementation, LawBroken, NotStarted, compare
from minivllm.course.time_limit import NeverEnds, time_limit


@pytest.fixture
def history(tiny):
    def make(label="solutions"):
        return Implementation(tiny, tiny.exercise("5.1"), label).history(
            "cdiv", imports=["from math import sqrt"]
        )

    return make


def test_the_program_of_a_failure_fails_by_itself(history, tiny):
    wrong = history("mutant:rounds-down")
    wrong.run("quotient = cdiv(7, 2)")
    with pytest.raises(LawBroken) as caught:
        wrong.check("quotient == 4", "up", lambda: "a picture")
    error = caught.value
    assert (error.law, error.sentence, error.picture) == ("up", "The quotient is rounded up.", "a picture")
    assert error.finding == "quotient is 3, and should be 4."
    with pytest.raises(AssertionError):
        exec("\n".join(error.program), {})


def test_a_check_that_holds_leaves_no_trace(history):
    good = history()
    before = list(good.program)
    good.check("cdiv(7, 2) == 4", "up")
    assert good.program == before


def test_an_error_is_a_broken_law_with_the_line_it_came_from(history):
    with pytest.raises(LawBroken, match=r"ZeroDivisionError: .* \(round_up.py, line \d+\)") as caught:
        history().run("cdiv(1, 0)")
    assert caught.value.program[-1] == "cdiv(1, 0)"


def test_an_unwritten_body_is_not_started(history, tiny):
    with pytest.raises(NotStarted):
        history("stub").run("cdiv(1, 1)")
    with pytest.raises(NotStarted):  # untouched: not even run
        Implementation(tiny, tiny.exercise("5.2"), "learner").module  # noqa: B018


@pytest.mark.parametrize(
    "text, finding",
    [
        ("def cdiv(:", r"SyntaxError: .*line 1\)"),
        ("x = 1", "defines no cdiv"),
        ("import nothing_here", "ModuleNotFound"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(tiny, text, finding):
    tiny.learner_file(tiny.exercise("5.1")).write_text(text, encoding="utf-8")
    with pytest.raises(LawBroken, match=f"The file can be loaded. .*{finding}"):
        Implementation(tiny, tiny.exercise("5.1"), "learner").cdiv  # noqa: B018


def test_a_refusal_is_an_assertion_and_nothing_else(history):
    good = history()
    good.run("def refuse(): assert False")
    good.refuses("refuse()", "up")
    assert "    refuse()" in good.program
    with pytest.raises(LawBroken, match="cdiv.1, 1. was accepted"):
        good.refuses("cdiv(1, 1)", "up")
    with pytest.raises(LawBroken, match="with an AssertionError, and ended with ZeroDivisionError") as broken:
        good.refuses("cdiv(1, 0)", "up")
    assert broken.value.law == "up" and broken.value.program[-1] == "cdiv(1, 0)"


def test_compare_marks_the_columns_that_differ():
    drawn = compare({"block": [8, 9, 10], "expected": [1, 2, 3], "yours": [1, 0]})
    assert drawn.splitlines() == [
        "block     8 9 10",
        "expected  1 2  3",
        "yours     1 0",
        "            ^  ^",
    ]


def test_a_loop_that_never_ends_is_stopped_in_its_line(tiny):
    implementation = Implementation(tiny, tiny.exercise("5.1"), "mutant:never-ends")
    with pytest.raises(NeverEnds, match="seconds of processor time"), time_limit(implementation):
        implementation.history("cdiv").run("cdiv(1, 1)")
    assert implementation.history_in_progress.program[-1] == "cdiv(1, 1)"
