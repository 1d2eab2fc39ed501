"""`status`, `next` and `report`: where the learner is. They read files and run none of the learner's code."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence

from minivllm.course.catalogue import Course, Exercise, read_course
from minivllm.course.exit_codes import GREEN, exit_code
from minivllm.course.state import State, read_progress, read_state, stub_digests
from minivllm.course.terminal import OF_OUTCOME, paint, wrap


def states(course: Course) -> dict[str, State]:
    """Exercise id -> state, for the whole course."""
    progress, stubs = read_progress(course), stub_digests(course)
    return {exercise.id: read_state(course, exercise, progress, stubs) for exercise in course.exercises}


def status(arguments: list[str]) -> int:
    """The command `status`."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.course status", description=status.__doc__)
    parser.add_argument("--json", action="store_true", help="for programs: one object for each exercise")
    options = parser.parse_args(arguments)
    course = read_course()
    found = states(course)
    if options.json:
        print(
            json.dumps(
                [_as_dict(course, exercise, found[exercise.id]) for exercise in course.exercises], indent=1
            )
        )
    else:
        _print_status(course, found)
    return exit_code(state.outcome for state in found.values())


def _as_dict(course: Course, exercise: Exercise, state: State) -> dict[str, object]:
    return {
        "id": exercise.id,
        "title": exercise.title,
        "kind": exercise.kind,
        "minutes": exercise.minutes,
        "file": course.learner_file(exercise).relative_to(course.root).as_posix(),
        "parts": list(exercise.parts),
        "outcome": state.outcome,
        "passed_tiers": list(state.passed_tiers),
        "hints": state.num_hints,
        "saw_solution": state.saw_solution,
    }


def _print_status(course: Course, found: dict[str, State]) -> None:
    for chapter in course.chapters:
        outcomes = Counter(found[exercise.id].outcome for exercise in chapter.exercises)
        print(
            paint(f"Chapter {chapter.number}: {chapter.title}", "bold"),
            f"({outcomes['green']}/{len(chapter.exercises)})",
        )
        for exercise in chapter.exercises:
            outcome = found[exercise.id].outcome
            word = paint(outcome, OF_OUTCOME.get(outcome))
            print(
                f"  {exercise.id:<5} {exercise.title:<36} {exercise.kind:<11} {exercise.minutes:>3} min  {word}"
            )
    todo = next_of(course, found)
    print(f"\nNext: {todo.id} {todo.title}  (python -m minivllm.course next)" if todo else "\nAll done.")


def next_of(
    course: Course, found: dict[str, State], exercises: Sequence[Exercise] | None = None
) -> Exercise | None:
    """What is red or was begun comes first, in the order of the course, then what was not begun.

    Args:
        exercises: among these; None = all of the course.
    """
    for wanted in (("red", "unchecked"), ("not started", "missing")):
        for exercise in course.exercises if exercises is None else exercises:
            if found[exercise.id].outcome in wanted:
                return exercise
    return None


def next_exercise(arguments: list[str]) -> int:
    """The command `next`."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.course next", description=next_exercise.__doc__)
    parser.add_argument("chapter", nargs="?", help="such as 5; default: the whole course")
    options = parser.parse_args(arguments)
    course = read_course()
    found = states(course)
    among = course.select(options.chapter) if options.chapter else None
    exercise = next_of(course, found, among)
    if exercise is None:
        print(f"All exercises of {options.chapter} are green." if among else "All exercises are green.")
        return GREEN
    outcome = found[exercise.id].outcome
    print(
        paint(f"{exercise.id} {exercise.title}", "bold"),
        f"({exercise.kind}, {exercise.minutes} min, {outcome})\n",
    )
    print(wrap(exercise.task))
    print(f"\nFile:   {course.learner_file(exercise).relative_to(course.root)}")
    print(f"Check:  python -m minivllm.course check {exercise.id}")
    print(f"Stuck:  python -m minivllm.course hint {exercise.id}")
    return exit_code([outcome])


def report(arguments: list[str]) -> int:
    """The command `report`: a table for a teacher. It says what the last checks of these very files found."""
    argparse.ArgumentParser(prog="python -m minivllm.course report", description=report.__doc__).parse_args(
        arguments
    )
    course = read_course()
    found = states(course)
    print("| exercise | title | state | tiers passed | hints | solution seen |\n|---|---|---|---|---|---|")
    for exercise in course.exercises:
        state = found[exercise.id]
        cells = [
            exercise.id,
            exercise.title,
            state.outcome,
            ", ".join(state.passed_tiers),
            str(state.num_hints),
        ]
        print("| " + " | ".join([*cells, "yes" if state.saw_solution else ""]) + " |")
    num_green = sum(state.outcome == "green" for state in found.values())
    print(f"\n{num_green} of {len(found)} exercises are green.")
    return exit_code(state.outcome for state in found.values())
