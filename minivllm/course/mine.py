"""Which parts of the engine are the learner's: those asked for by name, or all that pass their smoke tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minivllm.course.catalogue import Course, read_course
from minivllm.course.learner import Part, load, parts
from minivllm.parts import GROUPS, Parts, check_part_names, combine


@dataclass(frozen=True)
class Mine:
    """The learner's parts, and a table that says which is whose."""

    parts: Parts
    table: str


def choose(names: Sequence[str] = (), *, every_passing: bool = False, course: Course | None = None) -> Mine:
    """Load the learner's parts.

    Args:
        names: parts and groups of parts to use whatever their grade is, as long as they are written.
        every_passing: also use every part whose file, as it is now, passes its smoke tier.
        course: default: the one of the current folder.

    Raises:
        ValueError: no such part, no exercise for it, or nothing is written yet.
        CourseError: there is no course here.
    """
    course = course or read_course()
    known: dict[str, list[Part]] = {}
    for part in parts(course):
        known.setdefault(part.name, []).append(part)
    wanted = [part for name in names for part in GROUPS.get(name, (name,))]
    for name in names:
        check_part_names(GROUPS.get(name, (name,)))
        _check_written(name, known)
    used = {
        name: [
            part
            for part in found
            if (name in wanted and _is_written(part)) or (every_passing and part.state.passes_smoke)
        ]
        for name, found in known.items()
    }
    loaded = {name: _load(name, found, course) for name, found in used.items() if found}
    rows = [_row(part, part in used[name]) for name, found in known.items() for part in found]
    return Mine(Parts(**loaded), "\n".join(["Parts of this engine:", *rows]))


def _load(name: str, found: list[Part], course: Course) -> Any:
    """One exercise gives the part, or several change some methods of one class."""
    loaded = [getattr(load(part.exercise, course=course), part.object_name) for part in found]
    return loaded[0] if len(loaded) == 1 else combine(name, loaded)


def _is_written(part: Part) -> bool:
    return part.state.outcome not in ("not started", "missing")


def _check_written(name: str, known: dict[str, list[Part]]) -> None:
    """Is there anything of the learner's behind the name of a part or group?"""
    found = [one for part in GROUPS.get(name, (name,)) for one in known.get(part, ())]
    if not found:
        raise ValueError(
            f"no exercise is about the part {name!r}; there are exercises about {', '.join(known)}"
        )
    if not any(map(_is_written, found)):
        exercises = ", ".join(f"{part.exercise} ({part.state.outcome})" for part in found)
        raise ValueError(f"nothing of yours to use for {name!r} yet: exercise {exercises}")


def _row(part: Part, is_used: bool) -> str:
    whose = "yours" if is_used else "reference"
    state: str = part.state.outcome
    if state == "unchecked":
        state = f"not checked since it was edited: python -m minivllm.course check {part.exercise}"
    elif state == "red" and part.state.passes_smoke:
        state = "red, smoke tier passed"
    return f"  {part.name:<22} {whose:<10} exercise {part.exercise:<5} {state}"
