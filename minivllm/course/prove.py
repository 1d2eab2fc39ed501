"""`prove`: are the graders any good? Every correct solution is green, the stub and every mutant are red.

One pytest process for each chapter grades all implementations of its exercises, one after the other. A mutant that
never ends is red, by the time limit. "solutions+alternative" is the solution that builds on somebody else's correct
code of the exercises before it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from minivllm.course.catalogue import Chapter, Course, Exercise, read_course
from minivllm.course.learner import implementations
from minivllm.course.time_limit import on_this_machine
from minivllm.course.triton_here import why_not

SECONDS_PER_CHAPTER = 300
NEEDED_TIERS = {"predict": ("smoke", "examples"), "measure": ("smoke", "examples")}
ALL_TIERS = ("smoke", "examples", "properties")


@dataclass(frozen=True)
class Row:
    """The verdict on one implementation, see `Verdict.as_row`."""

    exercise: str
    implementation: str
    outcome: str
    tiers: list[str]
    failed_test: str
    law: str | None
    finding: str


def grade_everything(course: Course, chapter: Chapter) -> list[Row] | str:
    """Grade all implementations of a chapter's exercises in one process; its output instead if that cannot be done."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(course.grader_file(chapter)),
            "--impl=all",
            "-q",
            "--tb=no",
        ]
        command += ["-rN", "-p", "no:cacheprovider", f"--verdicts={path}"]
        seconds = on_this_machine(SECONDS_PER_CHAPTER)
        try:
            done = subprocess.run(
                command,
                cwd=course.root,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return f"chapter {chapter.number} took more than {seconds:.0f} seconds"
        if done.returncode not in (0, 1) or not path.exists():
            return done.stdout + done.stderr
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def complaints(course: Course, exercise: Exercise, rows: dict[str, Row]) -> list[str]:
    """What is wrong with the grader of one exercise; nothing is as it should be."""
    labels = implementations(course, exercise)
    found = []
    if not any(label.startswith("alternative") for label in labels):
        found.append("has no second correct solution in tests/exercises/alternatives")
    if not exercise.mutants:
        found.append("has no mutants")
    for label in labels:
        row = rows.get(label)
        if row is None:
            found.append(f"{label} was not graded: has it tests, and do they take `impl`?")
        elif label.startswith(("mutant", "stub")):
            found += _should_be_red(exercise, row)
        else:
            found += _should_be_green(exercise, row)
    return [f"{exercise.id} {line}" for line in found]


def _should_be_red(exercise: Exercise, row: Row) -> list[str]:
    if row.outcome == "green":
        return [f"{row.implementation} is green: no test notices it"]
    if row.implementation.startswith("mutant:"):
        if row.outcome != "red":
            return [f"{row.implementation} is {row.outcome}"]
        law = exercise.mutant(row.implementation.removeprefix("mutant:")).law
        if law is not None and law != row.law:
            return [
                f"{row.implementation} breaks the law {law!r}, but is found by {row.law!r}: {row.failed_test}"
            ]
    return []


def _should_be_green(exercise: Exercise, row: Row) -> list[str]:
    if row.outcome != "green":
        return [f"{row.implementation} is {row.outcome}: {row.failed_test}: {row.finding}"]
    needed = NEEDED_TIERS.get(exercise.kind, ALL_TIERS)
    return [f"has no test of the tier {tier}" for tier in needed if tier not in row.tiers]


def prove(course: Course, chapter: Chapter, verbose: bool = False) -> list[str]:
    """Grade a chapter's implementations, print a line for each exercise, and return the complaints."""
    rows = grade_everything(course, chapter)
    if isinstance(rows, str):
        return [f"chapter {chapter.number} could not be graded:\n{rows}"]
    found = []
    for exercise in chapter.exercises:
        if reason := why_not(exercise.requires):
            print(f"{exercise.id:<5} {exercise.title:<36} {reason}")
            continue
        own = {row.implementation: row for row in rows if row.exercise == exercise.id}
        wrong = complaints(course, exercise, own)
        killed = sum(row.outcome == "red" for label, row in own.items() if label.startswith("mutant:"))
        correct = sum(
            row.outcome == "green" for label, row in own.items() if not label.startswith(("mutant:", "stub"))
        )
        print(
            f"{exercise.id:<5} {exercise.title:<36} {correct} correct green, "
            f"{killed} of {len(exercise.mutants)} mutants red{'' if not wrong else ', NOT PROVEN'}"
        )
        if verbose:
            for label, row in own.items():
                by = f"{row.failed_test} ({row.law or 'runs'})" if row.failed_test else ""
                print(f"      {label:<40} {row.outcome:<12} {by}")
        found += wrong
    return found


def main(arguments: list[str]) -> int:
    """The command. Exit code 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.course prove", description=__doc__)
    parser.add_argument("chapters", nargs="*", type=int, help="default: all")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="for each mutant, the test that catches it"
    )
    options = parser.parse_args(arguments)
    course = read_course()
    chapters = [course.chapter(number) for number in options.chapters] or list(course.chapters)
    found = [line for chapter in chapters for line in prove(course, chapter, options.verbose)]
    for line in found:
        print(line)
    return 1 if found else 0
