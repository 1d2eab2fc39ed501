"""The graders, graded: for every exercise the stub and all mutants are red, every correct solution is green."""

from pathlib import Path

import pytest

from minivllm.course.catalogue import read_course
from minivllm.course.prove import prove

COURSE = read_course(Path(__file__).resolve().parents[2])


@pytest.mark.parametrize("chapter", COURSE.chapters, ids=lambda chapter: chapter.folder)
def test_the_graders_of_a_chapter_are_proven(chapter):
    assert prove(COURSE, chapter) == []


def test_the_proof_of_the_tiny_course(tiny):
    assert prove(tiny, tiny.chapter(5)) == []


def test_the_proof_notices_every_kind_of_bad_grader(tiny):
    grader = tiny.grader_file(tiny.chapter(5))
    text = grader.read_text(encoding="utf-8")
    text = text.replace(
        'history.check("quotient == 4", "up", "[][] [][] [][] []")', "pass"
    )  # misses a mutant
    text = text.replace(">= {numerator}", ">= 0")
    text = text.replace(
        '@pytest.mark.exercise("5.2", "properties")', '@pytest.mark.exercise("5.2", "examples")'
    )
    grader.write_text(text, encoding="utf-8")
    alternative = tiny.root / "tests" / "exercises" / "alternatives" / "ch05_tiny" / "round_up.py"
    alternative.write_text(
        "def cdiv(a, b):\n    return 5\n", encoding="utf-8"
    )  # a correct one, say, that fails
    found = "\n".join(prove(tiny, tiny.chapter(5)))
    assert "5.1 mutant:rounds-down is green: no test notices it" in found
    assert "5.1 alternative is red: test_it_is_a_number" in found
    assert "5.2 has no test of the tier properties" in found
