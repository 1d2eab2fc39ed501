"""A test that a machine cannot run says so; where it has to run (CI=true), it fails instead of skipping."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARKED = """
import pytest

@pytest.mark.browser
def test_browser(): pass

@pytest.mark.system("no-such-program")
def test_system(): pass

@pytest.mark.system
def test_system_by_its_own_skip(): pytest.skip("no daemon")

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.slow
@pytest.mark.system
def test_slow_system(): pass

def test_plain(): pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A project of one marked test file under this project's own rules."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_marked.py").write_text(MARKED, encoding="utf-8")
    return tmp_path


def run(suite: Path, ci: str, *arguments: str) -> str:
    """Run the small project's tests with nothing on PATH, so that no browser is found."""
    env = os.environ | {"CI": ci, "PATH": str(suite)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=suite, env=env, capture_output=True, text=True, check=False).stdout


def test_outside_ci_each_one_skips_with_its_reason(suite):
    output = run(suite, "")
    assert "1 passed, 5 skipped" in output
    for reason in ("needs chromium", "needs no-such-program", "no daemon", "--run-slow"):
        assert reason in output


def test_in_ci_a_browser_or_system_test_has_to_run(suite):
    output = run(suite, "true")
    assert "1 failed, 1 passed, 2 skipped, 2 errors" in output  # an error is a red set-up
    assert "test_browser must run when CI=true" in output


def test_slow_tests_run_when_asked(suite):
    assert "3 passed, 3 skipped" in run(suite, "", "--run-slow")
