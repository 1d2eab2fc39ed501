"""What a wheel would hold: every package and every data file of the checkout, and kernels/ in its place."""

import fnmatch
import tomllib
from pathlib import Path

import minivllm

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_package_is_listed():
    """They are listed by hand, and a forgotten one would work in a checkout and be missing elsewhere."""
    on_disk = {path.parent.relative_to(ROOT) for path in (ROOT / "minivllm").rglob("__init__.py")}
    listed = {Path(*name.split(".")) for name in SETUPTOOLS["packages"]} - {Path("minivllm/kernels")}
    assert listed == on_disk
    assert SETUPTOOLS["package-dir"] == {"minivllm.kernels": "kernels"}


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in (ROOT / "minivllm").rglob("*.py")}
    assert {folder.name for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_every_data_file_is_listed():
    packages = sorted((Path(*name.split(".")) for name in SETUPTOOLS["packages"]), reverse=True)
    globs = {Path(*name.split(".")): patterns for name, patterns in SETUPTOOLS["package-data"].items()}
    for path in (ROOT / "minivllm").rglob("*"):
        if path.is_dir() or path.suffix in (".py", ".pyc"):
            continue
        owner = next(p for p in packages if path.is_relative_to(ROOT / p))
        inside = path.relative_to(ROOT / owner).as_posix()
        flat = [pattern.replace("**/", "") for pattern in globs.get(owner, [])]
        assert any(fnmatch.fnmatch(inside, p) for p in flat), f"{owner}: {inside} would be left out"


def test_the_version_is_the_one_of_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = next(line for line in changelog.splitlines() if line.startswith("## ["))
    assert newest.startswith(f"## [{minivllm.__version__}]")
