"""A course of one chapter and two exercises in a folder of its own, cut from the package's smallest functions."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minivllm.course.catalogue import read_course
from minivllm.course.cli import main

ROOT = Path(__file__).resolve().parents[2]

COURSE = """
[[chapter]]
number = 5
slug = "tiny"
title = "A tiny chapter"
"""

EXERCISES = """
[[exercise]]
id = "5.1"
title = "Round up"
kind = "implement"
file = "round_up.py"
reference = "minivllm.core.block_table"
names = ["cdiv"]
minutes = 1
task = "Divide, and round up."
hints = ["Think of 7 / 2.", "The result times the denominator is never below the numerator.", "-(-a // b)"]

[exercise.laws]
up = "The quotient is rounded up."

[[exercise.misconception]]
law = "up"
says = "// rounds down."

[[exercise.mutant]]
name = "rounds-down"
law = "up"
old = "-(-numerator // denominator)"
new = "numerator // denominator"

[[exercise.mutant]]
name = "never-ends"
old = "    return"
new = "    while True:\\n        pass\\n    return"

[[exercise]]
id = "5.2"
title = "Sharing"
kind = "debug"
file = "sharing.py"
reference = "minivllm.core.sharing"
names = ["shared_blocks"]
bug = "too-many"
needs = ["5.1"]
parts = { shared_blocks = "shared_blocks" }
minutes = 1
task = "One line is wrong."
hints = ["a", "b", "c"]

[exercise.laws]
alone = "A block with one reference is nobody else's."

[[exercise.mutant]]
name = "too-many"
law = "alone"
old = "ref_cnt > 1"
new = "ref_cnt > 0"
"""

GRADER = """
import pytest

TABLE = "from minivllm.core.block_table import BlockTable"
POOL = "from minivllm.core.block_pool import BlockPool"


@pytest.mark.exercise("5.1", "smoke")
def test_it_is_a_number(impl):
    impl.history("cdiv").check("cdiv(4, 2) == 2", "up")
    print("4 / 2 is 2")


@pytest.mark.exercise("5.1", "examples")
def test_seven_halves(impl):
    history = impl.history("cdiv")
    history.run("quotient = cdiv(7, 2)")
    history.check("quotient == 4", "up", "[][] [][] [][] []")


@pytest.mark.exercise("5.1", "properties")
def test_always(impl):
    for numerator in range(6):
        impl.history("cdiv").check(f"cdiv({numerator}, 2) * 2 >= {numerator}", "up")


@pytest.mark.exercise("5.2", "smoke")
def test_alone(impl):
    history = impl.history("shared_blocks", imports=[TABLE, POOL])
    history.run("table = BlockTable(2)")
    history.run("table.append(BlockPool(4).get_new_blocks(2))")
    history.check("shared_blocks(table, 0, 4) == []", "alone")


@pytest.mark.exercise("5.2", "examples")
def test_example(impl):
    impl.history("shared_blocks")


@pytest.mark.exercise("5.2", "properties")
def test_property(impl):
    impl.history("shared_blocks")
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The tiny course, generated; the current folder is its root."""
    (tmp_path / "exercises" / "course").mkdir(parents=True)
    (tmp_path / "exercises" / "course.toml").write_text(COURSE, encoding="utf-8")
    (tmp_path / "exercises" / "course" / "ch05_tiny.toml").write_text(EXERCISES, encoding="utf-8")
    graders = tmp_path / "tests" / "exercises"
    (graders / "alternatives" / "ch05_tiny").mkdir(parents=True)
    (graders / "test_ch05_tiny.py").write_text(GRADER, encoding="utf-8")
    alternative = graders / "alternatives" / "ch05_tiny"
    (alternative / "round_up.py").write_text(
        "def cdiv(a, b):\n    return (a + b - 1) // b\n", encoding="utf-8"
    )
    (alternative / "sharing.py").write_text(
        "def shared_blocks(table, start, stop):\n"
        "    size = table.block_size\n"
        "    return [i for i, b in enumerate(table) if b.ref_cnt > 1 and start < (i + 1) * size and i * size < stop]\n",
        encoding="utf-8",
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["generate"]) == 0
    return read_course(tmp_path)


@pytest.fixture
def run_pytest(tiny):
    """Run pytest in the tiny course, in a process of its own: (exit code, output)."""

    def run(*arguments):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            command, cwd=tiny.root, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    return run


def solve(course, exercise_id, old="", new=""):
    """Put the solution, perhaps with a change, into the learner's file."""
    exercise = course.exercise(exercise_id)
    text = course.solution_file(exercise).read_text(encoding="utf-8")
    course.learner_file(exercise).write_text(text.replace(old, new) if old else text, encoding="utf-8")


@pytest.fixture
def solved(tiny):
    """`solve` for the tiny course."""
    return lambda *arguments: solve(tiny, *arguments)
