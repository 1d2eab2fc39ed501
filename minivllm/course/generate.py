"""`generate`: write exercises/ and solutions/ from course.toml and the package; `--check` only compares.

A file that the learner has edited is never overwritten: it differs from the digest of the stub that was generated
last (exercises/stubs.json).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from minivllm.course.catalogue import Course, read_course
from minivllm.course.cut import solution_text, stub_text
from minivllm.course.state import digest, text_digest

STUBS = "exercises/stubs.json"


def expected_files(course: Course) -> tuple[dict[str, str], dict[str, str]]:
    """(stubs, solutions): path below the root -> text."""
    stubs, solutions = {}, {}
    for exercise in course.exercises:
        stubs[course.learner_file(exercise).relative_to(course.root).as_posix()] = stub_text(course, exercise)
        where = course.solution_file(exercise).relative_to(course.root).as_posix()
        solutions[where] = solution_text(exercise)
    return stubs, solutions


def stubs_json(stubs: dict[str, str]) -> str:
    """The digests of the stubs, by path below exercises/."""
    digests = {path.removeprefix("exercises/"): text_digest(text) for path, text in sorted(stubs.items())}
    return json.dumps(digests, indent=1) + "\n"


def generated_on_disk(course: Course) -> set[str]:
    """Every file that looks generated: Python files in the chapters' folders."""
    found = [path for top in ("exercises", "solutions") for path in (course.root / top).glob("ch*_*/*.py")]
    return {path.relative_to(course.root).as_posix() for path in found}


def differences(course: Course) -> list[str]:
    """One line for each file that is not what the generator would write; an edited stub is one of them."""
    stubs, solutions = expected_files(course)
    expected = {**stubs, **solutions, STUBS: stubs_json(stubs)}
    lines = []
    for where, text in expected.items():
        found = digest(course.root / where)
        if found is None:
            lines.append(f"{where} is missing")
        elif found != text_digest(text):
            lines.append(f"{where} differs from what the package says")
    return lines + [
        f"{where} belongs to no exercise" for where in sorted(generated_on_disk(course) - set(expected))
    ]


def write(course: Course) -> list[str]:
    """Write what differs and remove solutions and stubs that no exercise has any more; one line for each file."""
    stubs, solutions = expected_files(course)
    previous = _previous_digests(course.root / STUBS)
    lines = []
    for where, text in {**solutions, **stubs}.items():
        path = course.root / where
        found = digest(path)
        if found == text_digest(text):
            continue
        if where in stubs and found not in (None, previous.get(where.removeprefix("exercises/"))):
            lines.append(f"kept   {where}: edited, not a stub any more")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        lines.append(f"wrote  {where}")
    for where in sorted(generated_on_disk(course) - set(stubs) - set(solutions)):
        path = course.root / where
        if where.startswith("solutions/") or digest(path) == previous.get(where.removeprefix("exercises/")):
            path.unlink()
            lines.append(f"removed {where}: it belongs to no exercise")
    (course.root / STUBS).write_text(stubs_json(stubs), encoding="utf-8")
    return lines


def _previous_digests(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return digests


def main(arguments: list[str]) -> int:
    """The command. Exit code 1 if `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.course generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; list what differs")
    options = parser.parse_args(arguments)
    course = read_course()
    lines = differences(course) if options.check else write(course)
    for line in lines:
        print(line)
    if options.check and lines:
        print("Run `python -m minivllm.course generate`, and commit what it writes.")
        return 1
    print(
        f"{len(course.exercises)} exercises, {len(lines)} files {'differ' if options.check else 'changed'}."
    )
    return 0
