"""What the instructor's page says about grading a class, run as it stands there, on a class of two."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from minivllm.course.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "instructor.md").read_text(encoding="utf-8")
(WORKFLOW,) = re.findall(r"```yaml\n([\s\S]*?)```", PAGE)
STEPS = yaml.safe_load(WORKFLOW)["jobs"]["grade"]["steps"]
CHANGED = 'raise RuntimeError("this is not a file of the course")\n'


def shell(text, where, **environment):
    """Run lines of the page as GitHub does: bash that stops at the first failure."""
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=where,
        env=os.environ | {"PATH": python, "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def class_of_two(tiny, solved):
    """Folders of two students beside the tiny course: one has solved 5.1 and cheats, one has handed in nothing."""
    solved("5.1")
    ours, theirs = tiny.root / "exercises" / "ch05_tiny", tiny.root / "submissions"
    shutil.copytree(ours, theirs / "ann" / "ch05_tiny", ignore=shutil.ignore_patterns("sharing.py"))
    for name in ("conftest.py", "extra.py"):
        (theirs / "ann" / "ch05_tiny" / name).write_text(CHANGED, encoding="utf-8")
    (theirs / "bob" / "ch05_tiny").mkdir(parents=True)
    assert main(["reset", "5.1"]) == 0
    return theirs


def test_the_workflow_asks_for_few_rights_and_has_the_steps_that_it_needs():
    whole = yaml.safe_load(WORKFLOW)
    assert whole["permissions"] == {"contents": "read"} and whole["jobs"]["grade"]["timeout-minutes"] <= 60
    assert "secrets." not in WORKFLOW
    assert {tuple(step)[0] for step in STEPS} <= {"uses", "run", "name"}
    for step in STEPS:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    paths = [step["with"]["path"] for step in STEPS if "checkout" in step.get("uses", "")]
    assert paths == ["submission", "course"]


def test_the_workflow_installs_an_extra_that_there_is_under_a_python_that_we_support():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (install,) = [step["run"] for step in STEPS if step.get("run", "").startswith("pip install")]
    folder, extra, constraints = re.fullmatch(
        r'pip install -e "(\w+)\[(\w+)\]" -c \w+/(.+)', install
    ).groups()
    assert folder == "course" and extra in project["optional-dependencies"] and (ROOT / constraints).is_file()
    (setup,) = [step["with"] for step in STEPS if "setup-python" in step.get("uses", "")]
    assert setup["cache-dependency-path"] == f"course/{constraints}"
    assert setup["python-version"] in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_the_chapter_of_the_workflow_is_one_of_the_course():
    environment = yaml.safe_load(WORKFLOW)["env"]
    assert environment["FOLDER"].startswith(f"ch{int(environment['CHAPTER']):02d}_")
    assert (ROOT / "exercises" / environment["FOLDER"]).is_dir()


def test_the_workflow_grades_what_a_student_has_handed_in_and_nothing_else(
    tiny, class_of_two, tmp_path_factory
):
    job = tmp_path_factory.mktemp("job")
    shutil.copytree(tiny.root, job / "course")
    shutil.copytree(class_of_two / "ann", job / "submission" / "exercises")
    summary = job / "summary.md"
    for step in STEPS:
        if "run" in step and not step["run"].startswith("pip"):
            where = job / step.get("working-directory", "")
            code, said = shell(
                step["run"], where, CHAPTER="5", FOLDER="ch05_tiny", GITHUB_STEP_SUMMARY=str(summary)
            )
            assert code == 0, said
    taken = (job / "course" / "exercises" / "ch05_tiny").glob("*.py")
    assert {path.name for path in taken} == {"round_up.py", "sharing.py"}
    found = json.loads((job / "grade.json").read_text(encoding="utf-8"))
    assert [row["outcome"] for row in found["exercises"]] == ["green", "not started"]
    assert summary.read_text(encoding="utf-8").startswith("1 of 2 points\n\n- 5.1: green, 1 of 1")


def test_a_check_that_could_not_run_ends_the_job(tiny, class_of_two):
    (grade,) = [step["run"] for step in STEPS if step.get("name") == "Grade"]
    (tiny.root / "tests" / "exercises" / "test_ch05_tiny.py").unlink()
    (tiny.root / "course").mkdir()
    code, _ = shell(f"cd course && {grade}", tiny.root, CHAPTER="5")
    assert code != 0


def test_the_lines_for_a_folder_of_submissions(tiny, class_of_two):
    lines = re.search(r"^    for student in [\s\S]*?submissions/\*/grade\.json$", PAGE, re.M)[0]
    text = re.sub("^    ", "", lines, flags=re.M).replace("ch05_allocator", "ch05_tiny")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "exercises"], [*identity, "commit", "-q", "-m", "as it was"]):
        subprocess.run(["git", *command], cwd=tiny.root, check=True)
    _, said = shell(f"set +e\n{text}", tiny.root)
    points = dict(re.findall(r"submissions/(\w+)/+grade\.json (\d+)", said))
    assert points == {"ann": "1", "bob": "0"}
