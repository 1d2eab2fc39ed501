"""Loading what somebody wrote for an exercise: the learner's file, its solution, a mutant, another correct solution.

This is the only place that runs code from exercises/, solutions/ and tests/, always by path, and nothing of it is
left in `sys.modules` under a name that could be imported by mistake.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from minivllm.course.catalogue import Course, CourseError, Exercise, read_course
from minivllm.course.cut import mutate, reference_file, solution_text, stub_text
from minivllm.course.state import State, read_state

IMPLEMENTATIONS = "learner, solutions, reference, stub, mutant:NAME, alternative or alternative:NAME"


@dataclass(frozen=True)
class Part:
    """A part of the engine that the learner can replace, and how far the learner is with it."""

    name: str  # of the part in minivllm/parts.py
    exercise: str  # "5.3"
    object_name: str  # the class or function in the file
    file: Path
    state: State


def load(
    exercise_id: str,
    implementation: str = "learner",
    *,
    course: Course | None = None,
) -> types.ModuleType:
    """Run one implementation of an exercise and return it as a module.

    Args:
        exercise_id: such as "5.3".
        implementation: learner, solutions, reference, stub, mutant:NAME, alternative or alternative:NAME. What follows
            a "+" stands in for the exercises that this one needs, instead of the package: "solutions+alternative". The
            learner's stand in only where the last check was green.
        course: default: the one of the current folder.

    Raises:
        CourseError: no such exercise, implementation or file.
        Exception: whatever the code itself raises when it is run.
    """
    course = course or read_course()
    exercise = course.exercise(exercise_id)
    implementation, _, earlier = implementation.partition("+")
    if implementation == "reference":
        return importlib.import_module(exercise.reference)
    text, path = _text(course, exercise, implementation), source_path(course, exercise, implementation)
    module = types.ModuleType(f"minivllm_exercise_{exercise.id.replace('.', '_')}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up while they are made
    linecache.cache[str(path)] = (
        len(text),
        None,
        text.splitlines(True),
        str(path),
    )  # Triton reads a kernel's source
    exec(compile(text, str(path), "exec"), module.__dict__)
    _put_in_earlier_work(course, exercise, module, earlier)
    return module


def source_path(course: Course, exercise: Exercise, implementation: str) -> Path:
    """The file of an implementation, as its tracebacks show it; <...> for one that is made in memory."""
    kind, _, name = implementation.partition("+")[0].partition(":")
    if kind == "learner":
        return course.learner_file(exercise)
    if kind == "solutions":
        return course.solution_file(exercise)
    if kind == "alternative":
        return alternative_file(course, exercise, name)
    if kind == "reference":
        return reference_file(exercise.reference)
    if kind in ("mutant", "stub"):
        return Path(f"<{kind} {name} of {exercise.id}>".replace("  ", " "))
    raise CourseError(f"an implementation is {IMPLEMENTATIONS}, not {implementation!r}")


def _text(course: Course, exercise: Exercise, implementation: str) -> str:
    kind, _, name = implementation.partition(":")
    if kind == "mutant":
        return mutate(exercise, solution_text(exercise), exercise.mutant(name))
    if kind == "stub":
        return stub_text(course, exercise)
    path = source_path(course, exercise, implementation)
    if not path.is_file():
        raise CourseError(
            f"{path} is missing: `python -m minivllm.course reset {exercise.id}` brings the stub back"
        )
    return path.read_text(encoding="utf-8")


def implementations(course: Course, exercise: Exercise) -> list[str]:
    """Every implementation of an exercise but the learner's: those that a grader has to accept, then the others."""
    stem = Path(exercise.file).stem
    folder = alternative_file(course, exercise, "").parent
    names = sorted(path.stem.removeprefix(stem) for path in folder.glob(f"{stem}*.py"))
    alternatives = ["alternative" + name.replace("_", ":", 1) for name in names]
    on_others = ["solutions+alternative"] if exercise.needs else []
    mutants = [f"mutant:{mutant.name}" for mutant in exercise.mutants]
    return ["reference", "solutions", *on_others, *alternatives, "stub", *mutants]


def alternative_file(course: Course, exercise: Exercise, name: str) -> Path:
    """A second correct solution: tests/exercises/alternatives/chNN_x/FILE, or FILE with .NAME before its suffix."""
    folder = course.root / "tests" / "exercises" / "alternatives" / course.chapter(exercise.chapter).folder
    return folder / (exercise.file if not name else f"{Path(exercise.file).stem}_{name}.py")


def _put_in_earlier_work(course: Course, exercise: Exercise, module: types.ModuleType, earlier: str) -> None:
    """Let names that came from the package, and that an earlier exercise covers, come from `earlier`."""
    if not earlier:
        return
    for need in map(course.exercise, exercise.needs):
        if earlier == "learner" and read_state(course, need).outcome != "green":
            continue
        replacement = load(need.id, f"{earlier}+{earlier}", course=course)
        for name in need.names:
            if name in module.__dict__:
                setattr(module, name, getattr(replacement, name))


def parts(course: Course | None = None) -> list[Part]:
    """Every part of the engine that an exercise covers, with the learner's state; runs none of the learner's code."""
    course = course or read_course()
    return [
        Part(name, exercise.id, object_name, course.learner_file(exercise), read_state(course, exercise))
        for exercise in course.exercises
        for name, object_name in exercise.parts.items()
    ]
