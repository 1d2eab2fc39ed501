"""--mine and --shadow: which parts are the learner's, said in a table, and a chapter's trace as a command."""

import shutil
from pathlib import Path

import pytest

from minivllm.course.catalogue import read_course
from minivllm.course.mine import choose
from minivllm.course.runs import record_run, served_chapters
from minivllm.course.state import record_check
from minivllm.parts import REFERENCE
from minivllm.serve.cli import main as serve
from minivllm.serve.learner_parts import learner_parts
from minivllm.serve.trace import main as trace

ROOT = Path(__file__).resolve().parents[2]
POOL, COPY = "ch05_allocator/block_pool.py", "ch05_allocator/copy_on_write.py"
FORK = "ch05_allocator/fork.py"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A fresh checkout's exercises and solutions, in which nothing is done; the current folder."""
    skip = shutil.ignore_patterns(".course", "__pycache__")
    for folder in ("exercises", "solutions"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skip)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solve(checkout, file, old="", new=""):
    text = (checkout / "solutions" / file).read_text(encoding="utf-8")
    assert old in text
    (checkout / "exercises" / file).write_text(text.replace(old, new), encoding="utf-8")


def row(table, part):
    (line,) = [line for line in table.splitlines() if line.startswith(f"  {part} ")]
    return " ".join(line.split())


def test_a_fresh_checkout_runs_the_reference(checkout):
    mine = choose(every_passing=True)
    assert mine.parts.replaced == ()
    assert row(mine.table, "block_pool") == "block_pool reference exercise 5.3 not started"


def test_what_passes_smoke_is_used_and_what_was_edited_since_is_not(checkout):
    solve(checkout, POOL)
    course = read_course()
    assert choose(every_passing=True).parts.replaced == ()
    record_check(course, course.exercise("5.3"), "red", ["smoke"])
    mine = choose(every_passing=True)
    assert mine.parts.replaced == ("block_pool",)
    assert row(mine.table, "block_pool") == "block_pool yours exercise 5.3 red, smoke tier passed"
    solve(checkout, POOL, "ref_cnt = 1", "ref_cnt = 2")
    mine = choose(every_passing=True)
    assert mine.parts.replaced == ()
    assert "python -m minivllm.course check 5.3" in row(mine.table, "block_pool")


def test_a_name_selects_whatever_the_grade(checkout):
    solve(checkout, POOL)
    solve(checkout, COPY)
    assert choose(["block_pool"]).parts.replaced == ("block_pool",)
    mine = choose(["allocator"])
    assert mine.parts.replaced == ("block_pool", "shared_blocks", "copy_on_write")
    assert mine.parts.block_pool.__module__.startswith("minivllm_exercise")
    assert row(mine.table, "fork_table") == "fork_table reference exercise 5.4 not started"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("alocator", "there is no part 'alocator'; the parts are block_pool"),
        ("block_pool", "nothing of yours to use for 'block_pool' yet: exercise 5.3 (not started)"),
    ],
)
def test_a_wrong_name_gets_a_sentence(checkout, capsys, names, says):
    with pytest.raises(ValueError) as error:
        learner_parts(names, None)
    assert says in str(error.value)
    assert serve(["--mine", names]) == 1
    assert says in capsys.readouterr().err


def test_without_a_course_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no exercises/course.toml in"):
        learner_parts("", None)
    assert learner_parts(None, None) is REFERENCE


def test_a_trace_served_by_the_learner_is_kept_until_the_file_changes(checkout, capsys):
    solve(checkout, POOL)
    solve(checkout, COPY)
    solve(checkout, FORK)
    assert trace(["5", "--mine", "allocator"]) == 0
    assert "The same tokens. Your parts have served chapter 05." in capsys.readouterr().out
    assert served_chapters(read_course()) == {5}
    assert trace(["5", "--shadow", "fork_table"]) == 0
    assert "no decision in which they differ" in capsys.readouterr().out
    assert served_chapters(read_course()) == {5}, "the shadow overwrites no run"
    solve(checkout, COPY, "ref_cnt > 1", "ref_cnt > 2")
    assert served_chapters(read_course()) == set()


def test_a_trace_that_the_reference_helped_with_completes_nothing(checkout, capsys):
    solve(checkout, POOL)
    assert trace(["5", "--mine", "allocator"]) == 0
    told = "not yours yet in chapter 05: fork_table, shared_blocks, copy_on_write."
    assert told in capsys.readouterr().out
    assert served_chapters(read_course()) == set()


def test_a_trace_with_a_wrong_part_stops_and_leaves_a_test(checkout, capsys):
    solve(checkout, COPY, "ref_cnt > 1", "ref_cnt > 2")
    assert trace(["5", "--shadow", "allocator"]) == 1
    said = capsys.readouterr().err
    assert "your shared_blocks decided otherwise" in said
    (file,) = (checkout / "exercises" / ".course").glob("test_shadow_*.py")
    text = file.read_text(encoding="utf-8")
    assert (
        "PARTS = {'shared_blocks': [('exercises/ch05_allocator/copy_on_write.py', 'shared_blocks')]}" in text
    )
    assert trace(["5", "--mine", "allocator"]) == 1
    assert "A law is broken: request" in capsys.readouterr().out


def test_nothing_of_yours_is_its_own_exit_code(checkout):
    assert trace(["5"]) == 2


def test_a_run_that_differed_completes_nothing(checkout):
    course = read_course()
    record_run(course, 5, REFERENCE, "ab", is_equal=False)
    assert served_chapters(course) == set()
    record_run(course, 5, REFERENCE, "ab", is_equal=True)
    assert served_chapters(course) == set(), "nobody's parts ran"
