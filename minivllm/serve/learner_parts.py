"""`--mine` and `--shadow`: the learner's parts for the engine that is about to be built."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from minivllm.course.catalogue import CourseError, read_course
from minivllm.course.mine import choose
from minivllm.course.shadow import shadowed
from minivllm.course.shadow_function import shadowed_function
from minivllm.course.state import state_folder
from minivllm.parts import CORE_PARTS, GROUPS, REFERENCE, Parts


def learner_parts(mine: str | None, shadow: str | None) -> Parts:
    """Load what the flags ask for, and print which part is whose.

    Args:
        mine: names of parts, separated by commas; "" = all that pass their smoke tier; None = only what `shadow` names.
        shadow: names of parts that run beside the reference; None = none.

    Raises:
        ValueError: a name is no part, there is nothing to use, or there is no course here.
    """
    if mine is None and shadow is None:
        return REFERENCE
    in_shadow = _names(shadow)
    try:
        course = read_course()
        chosen = choose([*_names(mine), *in_shadow], every_passing=mine == "", course=course)
    except CourseError as error:
        raise ValueError(str(error)) from error
    print(chosen.table, flush=True)
    file = state_folder(course) / f"test_shadow_{'_'.join(in_shadow)}.py"
    return _in_shadow(chosen.parts, in_shadow, file)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _in_shadow(parts: Parts, names: list[str], file: Path) -> Parts:
    """Put the shadow around the control plane if one of its parts is named, and around each function of the worker."""
    named = [part for name in names for part in GROUPS.get(name, (name,)) if part in parts.replaced]
    functions = {
        part: shadowed_function(part, getattr(parts, part), file, _tell)
        for part in named
        if part not in CORE_PARTS
    }
    with_functions = replace(parts, **functions)
    return (
        shadowed(with_functions, file, _tell) if any(part in CORE_PARTS for part in named) else with_functions
    )


def _tell(report: str) -> None:
    print(f"\n{report}\n", file=sys.stderr, flush=True)
