"""What the learner has done so far: results of checks, hints taken. One JSON file, which git ignores.

A result belongs to the sha256 of the learner's file: after an edit it no longer counts, after an undo it does again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from minivllm.course.catalogue import Course, CourseError, Exercise

Outcome = Literal["green", "red", "unchecked", "not started", "missing", "cannot run"]


@dataclass(frozen=True)
class State:
    """How far one exercise is."""

    outcome: Outcome
    passed_tiers: tuple[str, ...] = ()  # of the last check of exactly this file
    num_hints: int = 0
    saw_solution: bool = False

    @property
    def passes_smoke(self) -> bool:
        """May the engine use it? Its file, as it is now, was checked, and the smoke tier passed."""
        return self.outcome == "green" or "smoke" in self.passed_tiers


@dataclass
class Progress:
    """The JSON file: exercise id -> {"checks": {sha256: {"outcome", "tiers"}}, "hints", "saw_solution"}."""

    path: Path
    exercises: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, exercise: Exercise) -> dict[str, Any]:
        """The exercise's entry, made if there is none."""
        return self.exercises.setdefault(exercise.id, {})

    def save(self) -> None:
        """Write the file in one move: a reader sees the old one or the new one."""
        self.path.parent.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "exercises": self.exercises}, file, indent=1)
        os.replace(temporary, self.path)


def state_folder(course: Course) -> Path:
    """Where the course keeps what git ignores: progress, and the program of each exercise's last failure."""
    return course.root / "exercises" / ".course"


def read_progress(course: Course) -> Progress:
    """The learner's progress; empty at the beginning, or when the file is damaged (it can be made again)."""
    path = state_folder(course) / "state.json"
    try:
        return Progress(path, json.loads(path.read_text(encoding="utf-8"))["exercises"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Progress(path)


def digest(path: Path) -> str | None:
    """sha256 of the file's text, however its lines end; None if there is no file."""
    try:
        return text_digest(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def text_digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def stub_digests(course: Course) -> dict[str, str]:
    """exercises/stubs.json, which the generator writes: "chNN_x/file.py" -> sha256 of the stub."""
    path = course.root / "exercises" / "stubs.json"
    try:
        digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise CourseError(f"{path} cannot be read: run `python -m minivllm.course generate`") from error
    return digests


def read_state(
    course: Course,
    exercise: Exercise,
    progress: Progress | None = None,
    stubs: dict[str, str] | None = None,
) -> State:
    """The state of one exercise, from its file as it is now; the last two arguments save reading them again."""
    entry = (progress or read_progress(course)).exercises.get(exercise.id, {})
    path = course.learner_file(exercise)
    found = digest(path)
    outcome: Outcome = "unchecked"
    tiers: tuple[str, ...] = ()
    if found is None:
        outcome = "missing"
    elif found == (stubs or stub_digests(course)).get(path.relative_to(course.root / "exercises").as_posix()):
        outcome = "not started"
    elif check := entry.get("checks", {}).get(found):
        outcome, tiers = check["outcome"], tuple(check["tiers"])
    return State(outcome, tiers, entry.get("hints", 0), entry.get("saw_solution", False))


def record_check(course: Course, exercise: Exercise, outcome: Outcome, tiers: list[str]) -> None:
    """Keep the result of a check, for the file as it is now. Only the last few files' results are kept."""
    found = digest(course.learner_file(exercise))
    if found is None:
        return
    progress = read_progress(course)
    checks = progress.of(exercise).setdefault("checks", {})
    checks.pop(found, None)
    checks[found] = {"outcome": outcome, "tiers": tiers}
    for old in list(checks)[:-8]:
        del checks[old]
    progress.save()
