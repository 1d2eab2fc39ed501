"""What the README says is there is there, and what is there is in the README."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md"))]


def folders_in_readme() -> list[str]:
    """Read the tree: `name/` and a word on it; two more spaces put it inside the last top-level folder."""
    section = README.split("## What stands where")[1].split("\n## ")[0]
    found: list[str] = []
    top = ""
    for indent, name in re.findall(r"^ {4}( *)([\w.]+)/ +\S", section, flags=re.MULTILINE):
        top = top if indent else name
        found.append(f"{top}/{name}" if indent else name)
    return found


def folders_on_disk() -> set[str]:
    """Top-level folders, and those of the package, that hold at least one file of the project."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("needs a git checkout: only git knows which folders belong to the project")
    parts = [Path(name).parts for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    tops = {p[0] for p in parts if len(p) > 1}
    return tops | {f"{p[0]}/{p[1]}" for p in parts if len(p) > 2 and p[0] == "minivllm"}


def test_the_tree_names_every_folder_once_and_no_other():
    named = folders_in_readme()
    assert len(named) == len(set(named))
    assert set(named) == folders_on_disk()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_every_make_command_that_is_named_exists():
    command = re.compile(r"(?:`|^ {4})make ([a-z]+)", flags=re.MULTILINE)
    named = {target for page in PAGES for target in command.findall(page)}
    assert {"serve", "test", "lab", "help"} <= named
    assert named <= make_targets()


def test_every_module_that_is_run_exists():
    named = {name for page in PAGES for name in re.findall(r"python -m (minivllm[\w.]*)", page)}
    assert "minivllm.serve" in named
    for name in named:
        place = ROOT.joinpath(*name.split("."))
        assert (place / "__main__.py").is_file() or place.with_suffix(".py").is_file(), name


def test_every_link_into_the_project_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page):
            assert (ROOT / target).exists(), target


def test_the_two_commands_stand_on_the_first_screen():
    first_screen = README.splitlines()[:12]
    assert any(line.strip().startswith("make serve") for line in first_screen)
    assert any(line.strip().startswith("make test") for line in first_screen)
