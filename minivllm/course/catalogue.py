"""exercises/course.toml as values: the chapters, their exercises, and the mutants that a grader has to catch.

course.toml lists the chapters; the exercises of one are described in exercises/course/chNN_slug.toml.

What this is not: progress. What a learner has done is in `state.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("implement", "predict", "debug", "write-test", "measure")
MAX_TITLE = 36
NUM_HINTS = 3  # direction, invariant, pseudocode


class CourseError(Exception):
    """Something outside the learner's code is wrong: one sentence that says what, and what to do."""


@dataclass(frozen=True)
class Mutant:
    """A deliberate bug: `old`, which occurs once in the solution's text, becomes `new`. Graders have to turn red."""

    name: str
    old: str
    new: str
    law: str | None = None  # if given, the law whose check has to be the one that notices


@dataclass(frozen=True)
class Misconception:
    """What a failure with this `law`, or with a message that `pattern` is found in, usually means."""

    says: str
    law: str | None = None
    pattern: str | None = None

    def fits(self, law: str | None, message: str) -> bool:
        """Does it explain this failure?"""
        by_law = self.law is None or self.law == law
        by_pattern = self.pattern is None or re.search(self.pattern, message) is not None
        return by_law and by_pattern


@dataclass(frozen=True)
class Exercise:
    """One file for the learner, cut from one reference module."""

    id: str  # "5.3"
    title: str
    kind: str
    file: str  # its name in the chapter's folder
    reference: str  # the module that holds the solution
    names: tuple[
        str, ...
    ]  # what the file keeps of that module; later exercises may use these from the learner
    task: str
    minutes: int
    hints: tuple[str, ...]
    blank: tuple[
        str, ...
    ] = ()  # functions and methods whose body the learner writes; default: all of `names`
    bug: str | None = None  # kind debug: the mutant that the learner's file begins with
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()  # modules that not every system has, such as triton
    parts: Mapping[str, str] = field(
        default_factory=dict
    )  # the engine's part (minivllm/parts.py) -> the name for it
    laws: Mapping[str, str] = field(default_factory=dict)
    misconceptions: tuple[Misconception, ...] = ()
    mutants: tuple[Mutant, ...] = ()

    @property
    def chapter(self) -> int:
        return int(self.id.split(".")[0])

    def mutant(self, name: str) -> Mutant:
        """The mutant of that name."""
        for mutant in self.mutants:
            if mutant.name == name:
                return mutant
        known = ", ".join(mutant.name for mutant in self.mutants) or "none"
        raise CourseError(f"exercise {self.id} has no mutant {name!r}; it has: {known}")


@dataclass(frozen=True)
class Chapter:
    """A chapter and its exercises, in the order in which they are to be done."""

    number: int
    slug: str
    title: str
    exercises: tuple[Exercise, ...]
    needs: tuple[int, ...] = ()  # the chapters that it builds on directly

    @property
    def folder(self) -> str:
        """Its name below exercises/ and solutions/, such as ch05_allocator."""
        return f"ch{self.number:02d}_{self.slug}"


@dataclass(frozen=True)
class Course:
    """The whole course, and the folder that it stands in."""

    root: Path
    chapters: tuple[Chapter, ...]

    @property
    def exercises(self) -> list[Exercise]:
        return [exercise for chapter in self.chapters for exercise in chapter.exercises]

    def chapter(self, number: int) -> Chapter:
        """The chapter of that number."""
        for chapter in self.chapters:
            if chapter.number == number:
                return chapter
        known = ", ".join(str(chapter.number) for chapter in self.chapters)
        raise CourseError(f"there is no chapter {number} with exercises; there are: {known}")

    def exercise(self, exercise_id: str) -> Exercise:
        """The exercise of that id; "05.3" is "5.3"."""
        wanted = re.sub(r"^0+(?=\d)", "", exercise_id)
        for exercise in self.exercises:
            if exercise.id == wanted:
                return exercise
        raise CourseError(
            f"there is no exercise {exercise_id}; `python -m minivllm.course status` lists them"
        )

    def select(self, what: str) -> list[Exercise]:
        """The exercises that "5" (a chapter) or "5.3" (one exercise) stands for."""
        if "." in what:
            return [self.exercise(what)]
        if not what.isdigit():
            raise CourseError(f"{what!r} is neither a chapter (5) nor an exercise (5.3)")
        return list(self.chapter(int(what)).exercises)

    def learner_file(self, exercise: Exercise) -> Path:
        """Where the learner writes."""
        return self.root / "exercises" / self.chapter(exercise.chapter).folder / exercise.file

    def solution_file(self, exercise: Exercise) -> Path:
        """The generated solution."""
        return self.root / "solutions" / self.chapter(exercise.chapter).folder / exercise.file

    def grader_file(self, chapter: Chapter) -> Path:
        """The test module that grades a chapter."""
        return self.root / "tests" / "exercises" / f"test_{chapter.folder}.py"


def find_root(start: Path | None = None) -> Path:
    """The nearest folder, from `start` (default: the current folder) upwards, that holds exercises/course.toml."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "exercises" / "course.toml").is_file():
            return folder
    raise CourseError(f"no exercises/course.toml in {start} or above it: go to your checkout of minivllm")


def read_course(root: Path | None = None) -> Course:
    """Read and check exercises/course.toml, and the file of each of its chapters.

    Raises:
        CourseError: no such file, or something in it is wrong; the sentence names the file, the exercise and the key.
    """
    root = root or find_root()
    listed = _read(root, "exercises/course.toml").get("chapter", [])
    chapters = [_chapter(root, **entry) for entry in sorted(listed, key=lambda entry: entry["number"])]
    _check_ids([exercise for chapter in chapters for exercise in chapter.exercises])
    return Course(root, tuple(chapters))


def _read(root: Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads((root / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CourseError(f"{name}, which exercises/course.toml asks for, does not exist") from error
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"{name} cannot be read: {error}") from error


def _chapter(root: Path, number: int, slug: str, title: str, needs: Iterable[int] = ()) -> Chapter:
    name = f"exercises/course/ch{number:02d}_{slug}.toml"
    exercises = tuple(_exercise(entry, name) for entry in _read(root, name).get("exercise", []))
    if strays := [exercise.id for exercise in exercises if exercise.chapter != number]:
        raise CourseError(f"{name}: the ids {strays} belong to another chapter")
    return Chapter(number, slug, title, exercises, tuple(needs))


def _exercise(entry: dict[str, Any], name: str) -> Exercise:
    where = f"{name}, exercise {entry.get('id', '?')}"
    misconceptions, mutants = entry.pop("misconception", []), entry.pop("mutant", [])
    if not re.fullmatch(r"\d+\.\d+", str(entry.get("id"))):
        raise CourseError(f"{where}: id must look like 5.3")
    try:
        for key in ("names", "hints", "blank", "needs", "requires"):
            entry[key] = tuple(entry.get(key, ()))
        if "bug" not in entry:
            entry["blank"] = entry["blank"] or entry["names"]
        exercise = Exercise(
            **entry,
            misconceptions=tuple(Misconception(**item) for item in misconceptions),
            mutants=tuple(Mutant(**item) for item in mutants),
        )
    except TypeError as error:  # a key that is missing or unknown
        raise CourseError(f"{where}: {error}") from error
    _check(exercise, where)
    return exercise


def _check(exercise: Exercise, where: str) -> None:
    if len(exercise.title) > MAX_TITLE:
        raise CourseError(f"{where}: title must have at most {MAX_TITLE} characters, to fit a line of 80")
    if exercise.kind not in KINDS:
        raise CourseError(f"{where}: kind must be one of {', '.join(KINDS)}, not {exercise.kind!r}")
    if len(exercise.hints) != NUM_HINTS:
        raise CourseError(f"{where}: hints must be {NUM_HINTS} (direction, invariant, pseudocode)")
    if (exercise.kind == "debug") != (exercise.bug is not None):
        raise CourseError(f"{where}: bug names the mutant that a debug exercise begins with, and only there")
    if bool(exercise.blank) == (exercise.kind == "debug"):
        raise CourseError(
            f"{where}: names lists what its file holds; blank, what of it the learner writes (not for debug)"
        )
    named = {item.law for item in exercise.mutants} | {item.law for item in exercise.misconceptions}
    if unknown := set(exercise.parts.values()) - set(exercise.names):
        raise CourseError(f"{where}: parts names {sorted(unknown)}, which its file does not hold")
    if laws := sorted(law for law in named if law is not None and law not in exercise.laws):
        raise CourseError(f"{where}: {laws} are not among its laws")


def _check_ids(exercises: list[Exercise]) -> None:
    ids = [exercise.id for exercise in exercises]
    if repeated := sorted({i for i in ids if ids.count(i) > 1}):
        raise CourseError(f"exercises/course: the ids {repeated} occur twice")
    for exercise in exercises:
        if unknown := sorted(set(exercise.needs) - set(ids)):
            raise CourseError(
                f"exercises/course, exercise {exercise.id}: needs {unknown}, which do not exist"
            )
