"""What a learner reads after a check, in the place of pytest's own report."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from minivllm.course.catalogue import Course, Exercise
from minivllm.course.exit_codes import ENVIRONMENT, exit_code
from minivllm.course.grading import LawBroken
from minivllm.course.state import read_state, record_check, state_folder
from minivllm.course.terminal import OF_OUTCOME, WIDTH, paint, wrap
from minivllm.course.verdicts import Grading, Verdict

NOTHING_TO_KEEP = ("not started", "cannot run")


class GradeReport:
    """Collects nothing itself: it prints the verdicts when the session is over, and sets the exit code."""

    def __init__(self, grading: Grading, verbose: bool) -> None:
        self.grading = grading
        self.verbose = verbose
        self.errors: list[str] = []  # graders that cannot be collected

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what went wrong before any test ran."""
        if report.failed:
            self.errors.append(report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what went wrong around a test, which is no learner's fault."""
        if report.failed and report.when != "call":
            self.errors.append(report.longreprtext)

    def pytest_internalerror(self, excrepr: object) -> None:
        """Keep an error of pytest or of the plugin."""
        self.errors.append(str(excrepr))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Print, record, and set the exit code."""
        order = [exercise.id for exercise in self.grading.course.exercises]  # the grader's may be another
        verdicts = sorted(
            self.grading.verdicts.values(), key=lambda verdict: order.index(verdict.exercise.id)
        )
        print()
        self._print_table(verdicts)
        for verdict in verdicts:
            if self.verbose:
                print(textwrap.indent("\n".join(filter(None, verdict.printed)), "    "))
            if verdict.why_not:
                print("\n" + wrap(f"Exercise {verdict.exercise.id} {verdict.why_not}."))
            if verdict.failure is not None:
                print(failure_text(self.grading.course, verdict, verdict.failure, self.verbose))
        for error in self.errors:
            print(f"\nThe grader itself could not run:\n\n{error}")
        self._record(verdicts)
        session.exitstatus = self._exit_code(verdicts)

    def _print_table(self, verdicts: list[Verdict]) -> None:
        chapter = None
        for verdict in verdicts:
            exercise = verdict.exercise
            if exercise.chapter != chapter:
                chapter = exercise.chapter
                print(paint(f"Chapter {chapter}: {self.grading.course.chapter(chapter).title}", "bold"))
            outcome = verdict.outcome
            word = paint(outcome.upper() if outcome == "red" else outcome, OF_OUTCOME.get(outcome))
            pad = " " * (12 - len(outcome))
            where = f"in {verdict.failed_tier}" if verdict.failed_tier else ""
            print(f"  {exercise.id:<5} {exercise.title:<36} {word}{pad}{where}".rstrip())

    def _exit_code(self, verdicts: list[Verdict]) -> int:
        if not verdicts or self.errors:
            return ENVIRONMENT
        return exit_code(verdict.outcome for verdict in verdicts)

    def _record(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.implementation.label == "learner" and verdict.outcome not in NOTHING_TO_KEEP:
                record_check(self.grading.course, verdict.exercise, verdict.outcome, verdict.passed_tiers)


def failure_text(course: Course, verdict: Verdict, failure: LawBroken, verbose: bool) -> str:
    """The law, the smallest history as a program, the picture, the usual reason, and what to do next."""
    exercise = verdict.exercise
    title = f" {exercise.id} "
    parts = ["\n" + title.center(WIDTH, "-"), wrap(f"The law: {failure.sentence}"), wrap(failure.finding)]
    if failure.program:
        where = save_program(course, exercise, failure.program)
        parts.append(wrap(f"The smallest history that shows it (python {where} runs it again):"))
        parts.append(textwrap.indent("\n".join(failure.program), "    "))
    if failure.picture:
        parts.append(textwrap.indent(failure.picture, "    "))
    message = f"{failure.finding}\n{failure.picture}"
    for item in exercise.misconceptions:
        if item.fits(failure.law, message):
            parts.append(wrap(f"Often behind it: {item.says}"))
            break
    parts.append(next_step(course, exercise))
    if verbose:
        parts.append(verdict.details)
    return "\n\n".join(parts)


def next_step(course: Course, exercise: Exercise) -> str:
    """The command that helps next."""
    if read_state(course, exercise).num_hints < len(exercise.hints):
        return f"A hint:     python -m minivllm.course hint {exercise.id}"
    return f"Compare:    python -m minivllm.course diff {exercise.id}"


def save_program(course: Course, exercise: Exercise, program: list[str]) -> str:
    """Write the program where the learner can run it; returns the path from the course's root."""
    path: Path = state_folder(course) / f"failed_{exercise.id.replace('.', '_')}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(program) + "\n", encoding="utf-8")
    return path.relative_to(course.root).as_posix()
