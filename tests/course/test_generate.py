"""The generator: what is committed is what it writes, and what a learner wrote is never lost."""

import os
from pathlib import Path

from minivllm.course.catalogue import read_course
from minivllm.course.cli import main
from minivllm.course.generate import differences

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_committed_is_what_the_package_says():
    """On a learner's machine edited exercises are no difference; in CI they are."""
    found = differences(read_course(ROOT))
    if os.environ.get("CI", "").lower() not in ("1", "true"):
        found = [line for line in found if not (line.startswith("exercises/ch") and "differs" in line)]
    assert found == []


def test_generate_writes_once(tiny, capsys):
    assert main(["generate"]) == 0
    assert "2 exercises, 0 files changed" in capsys.readouterr().out
    assert main(["generate", "--check"]) == 0


def test_check_names_what_differs(tiny, capsys):
    (tiny.root / "solutions" / "ch05_tiny" / "round_up.py").write_text("", encoding="utf-8")
    (tiny.root / "exercises" / "ch05_tiny" / "sharing.py").unlink()
    (tiny.root / "solutions" / "ch05_tiny" / "old.py").write_text("", encoding="utf-8")
    assert main(["generate", "--check"]) == 1
    said = capsys.readouterr().out
    assert "solutions/ch05_tiny/round_up.py differs" in said
    assert "exercises/ch05_tiny/sharing.py is missing" in said
    assert "solutions/ch05_tiny/old.py belongs to no exercise" in said


def test_an_edited_file_is_kept_and_an_untouched_stub_follows_the_package(tiny, solved, capsys):
    solved("5.1")
    mine = tiny.learner_file(tiny.exercise("5.1")).read_text(encoding="utf-8")
    path = tiny.root / "exercises" / "course" / "ch05_tiny.toml"
    text = path.read_text(encoding="utf-8").replace('task = "', 'task = "Read well. ')
    path.write_text(text, encoding="utf-8")
    assert main(["generate"]) == 0
    assert "kept   exercises/ch05_tiny/round_up.py: edited" in capsys.readouterr().out
    assert tiny.learner_file(tiny.exercise("5.1")).read_text(encoding="utf-8") == mine
    assert "Read well." in tiny.learner_file(tiny.exercise("5.2")).read_text(encoding="utf-8")


def test_a_stub_without_an_exercise_goes_and_an_edited_one_stays(tiny, solved):
    solved("5.1")
    path = tiny.root / "exercises" / "course" / "ch05_tiny.toml"
    path.write_text("", encoding="utf-8")
    assert main(["generate"]) == 0
    left = sorted(p.relative_to(tiny.root).as_posix() for p in tiny.root.glob("*/ch05_tiny/*.py"))
    assert left == ["exercises/ch05_tiny/round_up.py"]
