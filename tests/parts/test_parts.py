"""Parts as values: names, files, and the way into another process."""

import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from minivllm.core.scheduler import Scheduler
from minivllm.parts import (
    GROUPS,
    PART_NAMES,
    REFERENCE,
    REFERENCE_NAMES,
    Parts,
    combine,
    files_of,
    load_from_file,
    parts_from_files,
    reference_of,
)

ROOT = Path(__file__).resolve().parents[2]


def test_every_part_has_a_reference():
    assert tuple(REFERENCE_NAMES) == PART_NAMES
    assert all(callable(reference_of(name)) for name in PART_NAMES)
    assert REFERENCE.replaced == ()


def test_groups_are_made_of_parts():
    assert {part for parts in GROUPS.values() for part in parts} <= set(PART_NAMES)


def test_exercises_name_parts_that_exist():
    named = set()
    for path in (ROOT / "exercises" / "course").glob("ch*.toml"):
        for exercise in tomllib.loads(path.read_text(encoding="utf-8"))["exercise"]:
            named |= set(exercise.get("parts", {}))
    assert named and named <= set(PART_NAMES)


def test_a_wrong_name_gets_a_sentence():
    with pytest.raises(ValueError, match="there is no part 'alocator'; the parts are block_pool"):
        parts_from_files({"alocator": [("a.py", "A")]})


def test_a_file_or_a_name_that_is_not_there_gets_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"pool.py is no file"):
        load_from_file(tmp_path / "pool.py", "Pool")
    (tmp_path / "pool.py").write_text("x = 1", encoding="utf-8")
    with pytest.raises(ValueError, match=r"pool.py defines no Pool"):
        load_from_file(tmp_path / "pool.py", "Pool")


def test_an_edited_file_is_run_again(tmp_path):
    file = tmp_path / "part.py"
    file.write_text("def f():\n    return 1\n", encoding="utf-8")
    first = load_from_file(file, "f")
    assert load_from_file(file, "f") is first
    file.write_text("def f():\n    return 2\n", encoding="utf-8")
    assert (first(), load_from_file(file, "f")()) == (1, 2)


def test_the_workers_parts_travel_as_files(other):
    parts = other(greedy_pick="greedy_twin", slot_mapping="slot_without_offset", block_pool="StackPool")
    program = (
        "import pickle, sys; parts = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print(parts.replaced, parts.greedy_pick.__name__)"
    )
    command = [sys.executable, "-c", program, pickle.dumps(parts).hex()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('slot_mapping', 'greedy_pick') greedy_twin"


def test_exercises_about_one_class_are_combined(tmp_path):
    """Each file is a copy of the class in which other methods are changed."""
    text = Path(sys.modules[Scheduler.__module__].__file__).read_text(encoding="utf-8")
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    has_work, unfinished = (
        text.index(f"def {name}(self)") for name in ("has_work", "has_unfinished_requests")
    )

    def with_first_line(start, line):
        end = text.index('"""\n', text.index('"""', start) + 3) + 4
        return text[:end] + f"        {line}\n" + text[end:]

    one.write_text(with_first_line(has_work, "return 'one'"), encoding="utf-8")
    two.write_text(with_first_line(unfinished, "return 'two'"), encoding="utf-8")
    files = [(str(one), "Scheduler"), (str(two), "Scheduler")]
    combined = combine("scheduler", [load_from_file(*file) for file in files])
    assert combined.has_work(None) == "one"
    assert combined.has_unfinished_requests(None) == "two"
    assert combined.schedule is Scheduler.schedule
    assert files_of(combined) == files
    assert Parts(scheduler=combined).replaced == ("scheduler",)
