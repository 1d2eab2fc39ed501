"""pyproject.toml, constraints.txt and environment.yml say the same thing about what this project needs."""

import platform
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
NEEDS = [
    Requirement(text)
    for text in sum(EXTRAS.values(), PROJECT["dependencies"])
    if not text.startswith("minivllm[")  # an extra that holds another
]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
CONDA = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]


def pins() -> dict[str, str]:
    """Read constraints.txt: canonical name -> exact version; anything that is not `name==version` raises."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in rows}


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.name)
def test_every_dependency_is_pinned_within_its_bounds(need):
    assert pins()[canonicalize_name(need.name)] in need.specifier


def test_the_pins_are_exact_and_name_no_place():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
    assert all(version and version[0].isdigit() and "+" not in version for version in pins().values())


def test_conda_brings_python_and_pip_and_no_second_copy_of_a_dependency():
    names = {Requirement(entry.replace("=", "==", 1) if "==" not in entry else entry).name for entry in CONDA}
    assert {"python", "pip"} <= names
    assert names.isdisjoint({canonicalize_name(need.name) for need in NEEDS} | {"pytorch"})


def test_condas_python_is_one_that_the_project_accepts():
    (python,) = [entry.split("=", 1)[1] for entry in CONDA if entry.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.strip("="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(platform.python_version())


def test_the_environment_ends_with_the_project_itself_at_the_pinned_versions():
    last = ENVIRONMENT["dependencies"][-1]
    assert list(last) == ["pip"]
    constraints, project = last["pip"]
    assert constraints == "-c constraints.txt"
    assert project.startswith("-e .")
    extras = project.removeprefix("-e .").strip("[]").split(",")
    assert set(extras) <= set(EXTRAS)
