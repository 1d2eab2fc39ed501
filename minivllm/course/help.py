"""`hint`, `solution`, `diff` and `reset`: help with one exercise."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from minivllm.course.catalogue import Course, CourseError, Exercise, read_course
from minivllm.course.cut import solution_text, stub_text
from minivllm.course.state import Progress, read_progress
from minivllm.course.terminal import paint, wrap

HINT_NAMES = ("direction", "invariant", "pseudocode")


def _parse(
    name: str, description: str | None, arguments: list[str]
) -> tuple[Course, Exercise, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog=f"python -m minivllm.course {name}", description=description)
    parser.add_argument("exercise", help="such as 5.3")
    if name == "hint":
        parser.add_argument("number", nargs="?", type=int, choices=(1, 2, 3), help="default: the next one")
    options = parser.parse_args(arguments)
    course = read_course()
    return course, course.exercise(options.exercise), options


def hint(arguments: list[str]) -> int:
    """The command `hint`: each call shows one more, from a direction to pseudocode."""
    course, exercise, options = _parse("hint", hint.__doc__, arguments)
    progress = read_progress(course)
    taken = progress.of(exercise).get("hints", 0)
    number = options.number or min(taken + 1, len(exercise.hints))
    print(f"Hint {number} of {len(exercise.hints)} for {exercise.id}: {HINT_NAMES[number - 1]}\n")
    text = exercise.hints[number - 1].strip("\n")
    print(text if "\n" in text else wrap(text))
    if number < len(exercise.hints):
        print(
            f"\nMore: python -m minivllm.course hint {exercise.id}{f' {number + 1}' if options.number else ''}"
        )
    else:
        print(f"\nStill stuck: python -m minivllm.course diff {exercise.id}, or solution {exercise.id}")
    _keep(progress, exercise, "hints", max(taken, number))
    return 0


def solution(arguments: list[str]) -> int:
    """The command `solution`."""
    course, exercise, _ = _parse("solution", solution.__doc__, arguments)
    print(solution_text(exercise), end="")
    _keep(read_progress(course), exercise, "saw_solution", True)
    return 0


def diff(arguments: list[str]) -> int:
    """The command `diff`: what the solution would change in your file."""
    course, exercise, _ = _parse("diff", diff.__doc__, arguments)
    path = course.learner_file(exercise)
    mine = _without_docstring(_read(path, exercise))
    theirs = _without_docstring(solution_text(exercise))
    lines = difflib.unified_diff(mine, theirs, "yours", "solution", lineterm="")
    for line in lines:
        color = {"+": "green", "-": "red"}.get(line[:1])
        print(paint(line, color))
    _keep(read_progress(course), exercise, "saw_solution", True)
    return 0


def reset(arguments: list[str]) -> int:
    """The command `reset`: the stub again; what was there is kept beside it."""
    course, exercise, _ = _parse("reset", reset.__doc__, arguments)
    path = course.learner_file(exercise)
    stub = stub_text(course, exercise)
    if path.exists():
        if path.read_text(encoding="utf-8") == stub:
            print(f"{path.relative_to(course.root)} is the stub already.")
            return 0
        backup = _free_backup(path)
        path.replace(backup)
        print(f"Your file is kept as {backup.relative_to(course.root)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(stub, encoding="utf-8")
    print(f"{path.relative_to(course.root)} is the stub again.")
    return 0


def _free_backup(path: Path) -> Path:
    """x.py.bak, or with a number if that is taken: a backup never overwrites another."""
    backup, number = path.with_name(path.name + ".bak"), 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.{number}.bak")
    return backup


def _read(path: Path, exercise: Exercise) -> str:
    if not path.exists():
        raise CourseError(f"{path} is missing: python -m minivllm.course reset {exercise.id}")
    return path.read_text(encoding="utf-8")


def _without_docstring(text: str) -> list[str]:
    """The lines after the module's docstring, which differs in every pair."""
    parts = text.split('"""', 2)
    return (parts[2] if len(parts) == 3 and not parts[0].strip() else text).strip("\n").splitlines()


def _keep(progress: Progress, exercise: Exercise, key: str, value: int | bool) -> None:
    progress.of(exercise)[key] = value
    progress.save()
