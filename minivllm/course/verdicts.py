"""Verdicts: what the tests of one pytest session say of each exercise in each implementation."""

from __future__ import annotations

from dataclasses import dataclass, field

from minivllm.course.catalogue import Course, Exercise
from minivllm.course.grading import RUNS, Implementation, LawBroken, NotStarted, is_stub_error
from minivllm.course.state import Outcome
from minivllm.course.time_limit import NeverEnds

TIERS = ("smoke", "examples", "properties", "budget")
ENDS = "Every call comes back."
ASSERTS = "What the grader asserts holds."


@dataclass
class Verdict:
    """What is known of one exercise in one implementation."""

    implementation: Implementation
    passed: list[str] = field(default_factory=list)  # tiers, one entry for each test
    is_not_started: bool = False
    why_not: str = ""  # the exercise cannot run on this system, in one sentence
    failure: LawBroken | None = None
    failed_test: str = ""
    failed_tier: str = ""
    details: str = ""  # the traceback
    printed: list[str] = field(default_factory=list)  # by worked examples

    @property
    def exercise(self) -> Exercise:
        return self.implementation.exercise

    @property
    def is_over(self) -> bool:
        """Nothing that is still to come can change it."""
        return self.is_not_started or self.failure is not None

    @property
    def outcome(self) -> Outcome:
        if self.failure is not None:
            return "red"
        if self.why_not:
            return "cannot run"
        return "not started" if self.is_not_started or not self.passed else "green"

    @property
    def passed_tiers(self) -> list[str]:
        """Tiers of which every test passed."""
        return [tier for tier in TIERS if tier in self.passed and tier != self.failed_tier]

    def as_row(self) -> dict[str, str | list[str] | None]:
        """What the proof wants to know, for JSON."""
        return {
            "exercise": self.exercise.id,
            "implementation": self.implementation.label,
            "outcome": self.outcome,
            "tiers": self.passed_tiers,
            "failed_test": self.failed_test,
            "law": self.failure.law if self.failure is not None else None,
            "finding": self.failure.finding if self.failure is not None else "",
        }

    def add(self, tier: str, test: str, error: BaseException | None) -> None:
        """Add one test's result, and put what went wrong into the form that a learner reads."""
        if error is None:
            self.passed.append(tier)
            return
        if isinstance(error, BaseExceptionGroup):  # hypothesis, with several bugs at once
            error = error.exceptions[0]
        if isinstance(error, NotStarted) or is_stub_error(error, self.exercise):
            self.is_not_started = True
            return
        self.failed_test, self.failed_tier = test, tier
        self.failure = error if isinstance(error, LawBroken) else self._as_law(error)

    def _as_law(self, error: BaseException) -> LawBroken:
        """A failure that no history has put into words."""
        notes = [line for note in getattr(error, "__notes__", []) for line in note.splitlines()]
        if isinstance(error, NeverEnds):
            history = self.implementation.history_in_progress
            program = [*history.program, *history.lines_running] if history is not None else notes
            return LawBroken(ENDS, f"The last line took {error}: a loop that never ends?", program)
        if isinstance(error, AssertionError):
            first_line = (str(error).splitlines() or [""])[0]
            return LawBroken(ASSERTS, first_line, notes)
        return LawBroken(RUNS, self.implementation.describe(error), notes)


@dataclass
class Grading:
    """One pytest session's view of the course."""

    course: Course
    choice: str  # of --impl: an implementation, or "all"
    wanted: set[str] | None = None  # exercise ids, when the session is a learner's
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)  # (exercise id, label)

    def verdict(self, exercise: Exercise, label: str) -> Verdict:
        """The verdict that the exercise's tests add to; one for each implementation."""
        key = exercise.id, label
        if key not in self.verdicts:
            self.verdicts[key] = Verdict(Implementation(self.course, exercise, label))
        return self.verdicts[key]
