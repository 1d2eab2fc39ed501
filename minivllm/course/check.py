"""`check` and `watch`: run the graders in a process of their own, which may hang or crash without harm."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from minivllm.course.catalogue import Course, CourseError, Exercise, read_course
from minivllm.course.exit_codes import ENVIRONMENT, GREEN, NOT_STARTED, RED
from minivllm.course.points import as_table
from minivllm.course.state import digest, record_check
from minivllm.course.time_limit import on_this_machine

SECONDS_PER_EXERCISE = 120  # real time, on a quiet machine: for what the time limit inside cannot stop
WATCH_SECONDS = 0.5


def grade(
    what: Sequence[str], verbose: bool = False, course: Course | None = None, verdicts: Path | None = None
) -> int:
    """Grade chapters ("5") or exercises ("5.3"), print the report, record the results, and return the exit code.

    Args:
        verdicts: write what was found there, as JSON; the report then goes to stderr.
    """
    course = course or read_course()
    exercises = _chosen(course, what)
    for name in ("pytest", "hypothesis"):
        if importlib.util.find_spec(name) is None:
            raise CourseError(f"{name} is not installed: pip install -e '.[test]'")
    for exercise in exercises:
        if not course.learner_file(exercise).exists():
            raise CourseError(
                f"{course.learner_file(exercise)} is missing: python -m minivllm.course reset {exercise.id}"
            )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(["-v"] if verbose else [])]
    command += [str(course.learner_file(exercise)) for exercise in exercises]
    command += [f"--verdicts={verdicts}"] if verdicts else []
    seconds = on_this_machine(SECONDS_PER_EXERCISE * len(exercises))
    try:
        done = subprocess.run(
            command,
            cwd=course.root,
            check=False,
            timeout=seconds,
            stdout=sys.stderr if verdicts else None,
        )
    except subprocess.TimeoutExpired:
        return _never_ended(course, exercises, seconds, sys.stderr if verdicts else sys.stdout)
    return done.returncode if done.returncode in (GREEN, RED, NOT_STARTED) else ENVIRONMENT


def _chosen(course: Course, what: Sequence[str]) -> list[Exercise]:
    return [exercise for item in what for exercise in course.select(item)] or course.exercises


def _never_ended(course: Course, exercises: list[Exercise], seconds: float, where: TextIO) -> int:
    print(
        f"Stopped after {seconds:.0f} seconds. Either a loop never ends, or something waits "
        "for what never comes, or this machine is very busy: then try again when it is not.",
        file=where,
    )
    if len(exercises) == 1:
        record_check(course, exercises[0], "red", [])
    return RED


def check(arguments: list[str]) -> int:
    """The command `check`."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.course check", description=check.__doc__)
    parser.add_argument("what", nargs="*", help="chapters (5) or exercises (5.3); default: all")
    parser.add_argument("-v", "--verbose", action="store_true", help="also worked examples and tracebacks")
    parser.add_argument("--json", action="store_true", help="for programs: points and findings on stdout")
    options = parser.parse_args(arguments)
    return _as_json(options.what, options.verbose) if options.json else grade(options.what, options.verbose)


def _as_json(what: Sequence[str], verbose: bool) -> int:
    """Grade, with the report on stderr and one JSON object on stdout."""
    course = read_course()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.json"
        code = grade(what, verbose, course, path)
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not rows and code == ENVIRONMENT:
        return code  # the graders did not run: there is nothing to give points for
    if not rows:  # it took too long, or the learner's code ended the process
        code = RED
    print(json.dumps(as_table(_chosen(course, what), rows), indent=1))
    return code


def watch(arguments: list[str]) -> int:
    """The command `watch`: grade what is saved, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.course watch", description=watch.__doc__)
    parser.add_argument("what", nargs="*", help="chapters (5) or exercises (5.3); default: all")
    options = parser.parse_args(arguments)
    course = read_course()
    exercises = _chosen(course, options.what)
    seen = {exercise.id: digest(course.learner_file(exercise)) for exercise in exercises}
    print(f"Watching {len(exercises)} files. Save one, and it is graded; Ctrl-C ends this.", flush=True)
    while True:
        time.sleep(WATCH_SECONDS)
        for exercise in exercises:
            found = digest(course.learner_file(exercise))
            if found is not None and found != seen[exercise.id]:
                seen[exercise.id] = found
                grade([exercise.id], course=course)
                sys.stdout.flush()
