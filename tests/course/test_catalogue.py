"""exercises/course.toml: the real one holds together, and what is wrong in one gets a sentence."""

from pathlib import Path

import pytest

from minivllm.course.catalogue import CourseError, find_root, read_course

ROOT = Path(__file__).resolve().parents[2]


def test_the_course_can_be_read():
    course = read_course(ROOT)
    assert all(chapter.exercises for chapter in course.chapters)
    for exercise in course.exercises:
        assert exercise.mutants and exercise.laws, exercise.id
        assert course.grader_file(course.chapter(exercise.chapter)).exists(), exercise.id


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ('kind = "debug"', 'kind = "riddle"', "exercise 5.2: kind must be one of implement"),
        ('hints = ["a", "b", "c"]', 'hints = ["a"]', "exercise 5.2: hints must be 3"),
        ('id = "5.2"', 'id = "5.1"', "'5.1'] occur twice"),
        ('id = "5.2"', 'id = "6.2"', r"the ids \['6.2'\] belong to another chapter"),
        ('id = "5.2"', 'id = "five"', "id must look like 5.3"),
        ('needs = ["5.1"]', 'needs = ["4.9"]', r"exercise 5.2: needs \['4.9'\]"),
        ('bug = "too-many"', "", "bug names the mutant that a debug exercise begins with"),
        ("minutes = 1", "minuets = 1", "exercise 5.1: .*minuets"),
        ('law = "alone"', 'law = "lonely"', r"\['lonely'\] are not among its laws"),
        (
            'parts = { shared_blocks = "shared_blocks" }',
            'parts = { shared_blocks = "share" }',
            "does not hold",
        ),
        ("[[exercise]]", "[[exercise", "course/ch05_tiny.toml cannot be read"),
    ],
)
def test_a_mistake_gets_a_sentence(tiny, old, new, sentence):
    path = tiny.root / "exercises" / "course" / "ch05_tiny.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(CourseError, match=sentence):
        read_course(tiny.root)


def test_a_chapter_without_its_file_gets_a_sentence(tiny):
    (tiny.root / "exercises" / "course" / "ch05_tiny.toml").unlink()
    with pytest.raises(CourseError, match=r"ch05_tiny.toml, which exercises/course.toml asks for, does not"):
        read_course(tiny.root)


def test_a_chapter_or_an_exercise_is_selected(tiny):
    assert [exercise.id for exercise in tiny.select("5")] == ["5.1", "5.2"]
    assert [exercise.id for exercise in tiny.select("05.2")] == ["5.2"]
    for what, sentence in (("7", "no chapter 7"), ("5.9", "no exercise 5.9"), ("x", "neither a chapter")):
        with pytest.raises(CourseError, match=sentence):
            tiny.select(what)


def test_the_root_is_found_from_any_folder_below(tiny):
    assert find_root(tiny.root / "exercises" / "ch05_tiny") == tiny.root
    with pytest.raises(CourseError, match="go to your checkout"):
        find_root(tiny.root.parent)
