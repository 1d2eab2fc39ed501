"""`doctor`: is everything there that the course needs? Looks, and imports nothing heavy."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version

from minivllm.course.catalogue import Course, CourseError, read_course
from minivllm.course.exit_codes import ENVIRONMENT, GREEN
from minivllm.course.generate import differences
from minivllm.course.state import state_folder
from minivllm.course.terminal import paint

MIN_PYTHON = (3, 11)
FOR_GRADING = ("pytest", "hypothesis", "numpy")
FOR_TENSORS = ("torch",)
FOR_KERNELS = ("triton",)
FOR_NOTEBOOKS = ("jupyterlab", "ipywidgets", "matplotlib")
FROM_EXTRA = {"pytest": "test", "hypothesis": "test", **dict.fromkeys(FOR_NOTEBOOKS, "lab")}


def main(arguments: list[str]) -> int:
    """The command. Exit code 3 if grading cannot work here."""
    argparse.ArgumentParser(prog="python -m minivllm.course doctor", description=__doc__).parse_args(
        arguments
    )
    is_well = all(
        [
            _say(sys.version_info >= MIN_PYTHON, f"Python {sys.version.split()[0]}", "needs 3.11 or newer"),
            *(_package(name, "grading", True) for name in FOR_GRADING),
            *(_package(name, "chapters with tensors", False) for name in FOR_TENSORS),
            *(_package(name, "kernels of one's own (Linux only)", False) for name in FOR_KERNELS),
            *(_package(name, "notebooks", False) for name in FOR_NOTEBOOKS),
            _checkout(),
            _gpu(),
        ]
    )
    print("\nReady." if is_well else "\nMend what is marked MISSING, then run this again.")
    return GREEN if is_well else ENVIRONMENT


def _say(is_there: bool, what: str, otherwise: str, required: bool = True) -> bool:
    mark = "ok" if is_there else ("MISSING" if required else "absent")
    print(
        f"{paint(f'{mark:<8}', 'green' if is_there else 'red' if required else 'yellow')}{what}"
        f"{'' if is_there else ': ' + otherwise}"
    )
    return is_there or not required


def _package(name: str, purpose: str, required: bool) -> bool:
    is_there = importlib.util.find_spec(name) is not None
    try:
        number = version(name) if is_there else ""
    except PackageNotFoundError:
        number = "(version unknown)"
    extra = f"[{FROM_EXTRA[name]}]" if name in FROM_EXTRA else ""
    return _say(is_there, f"{name} {number}".strip(), f"for {purpose}; pip install -e '.{extra}'", required)


def _checkout() -> bool:
    try:
        course = read_course()
    except CourseError as error:
        return _say(False, "the exercises", str(error))
    wrong = [line for line in differences(course) if not _is_edited_stub(course, line)]
    is_whole = _say(
        not wrong, "exercises/ and solutions/", f"{'; '.join(wrong[:3])}; python -m minivllm.course generate"
    )
    return _writable(course) and is_whole


def _is_edited_stub(course: Course, line: str) -> bool:
    where, _, problem = line.partition(" ")
    is_exercise = any(course.root / where == course.learner_file(exercise) for exercise in course.exercises)
    return is_exercise and problem.startswith("differs")


def _writable(course: Course) -> bool:
    folder = state_folder(course)
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return _say(False, "a place for your progress", f"{folder} cannot be written: {error.strerror}")
    return _say(True, "a place for your progress", "")


def _gpu() -> bool:
    return _say(
        shutil.which("nvidia-smi") is not None, "an NVIDIA GPU", "every exercise also runs without", False
    )
