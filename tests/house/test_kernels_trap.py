"""`kernels` is also the name of a Hugging Face library that transformers probes for: ours never answers for it.

Each case runs in a fresh interpreter, started where a root-level `kernels` would be found: with the project's root
first on sys.path, as `python script.py` and `python -m pytest` have it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What transformers asks of the library at import time, and no more; a name that it uses later is made on demand.
STUB = """
IS_THE_STUB = True

class _Anything:
    def __init__(self, *args, **kwargs): pass
    def __call__(self, *args, **kwargs): return args[0] if args else self
    def __getattr__(self, name): return _Anything()

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Anything,), {})
"""

USE_A_MODEL = "from transformers.models.llama.modeling_llama import LlamaForCausalLM\n"
USE_OURS = "from minivllm.kernels.copy_blocks import copy_blocks_torch\n"
IS_THE_OTHER_ONE = "import kernels\nassert kernels.IS_THE_STUB\n"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH that holds the other `kernels`, of a version that transformers accepts."""
    from transformers.dependency_versions_table import deps

    floor = deps["kernels"].split(">=")[1].split(",")[0]
    site = tmp_path / "site"
    (site / "kernels").mkdir(parents=True)
    (site / "kernels" / "__init__.py").write_text(STUB, encoding="utf-8")
    info = site / f"kernels-{floor}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kernels\nVersion: {floor}\n", encoding="utf-8"
    )
    return site


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package and of kernels/, to do damage in."""
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for folder in ("minivllm", "kernels"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    return root


def run(program: str, cwd: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter with `cwd`, then `path`, ahead of what is installed."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_there_is_no_init_file():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_transformers_works_at_the_root_without_the_library():
    done = run(USE_A_MODEL + USE_OURS, ROOT)
    assert done.returncode == 0, done.stderr


def test_transformers_works_at_the_root_with_the_library(library):
    done = run(USE_A_MODEL + IS_THE_OTHER_ONE + USE_OURS, ROOT, library)
    assert done.returncode == 0, done.stderr


def test_ours_is_found_from_any_working_directory(library, tmp_path):
    done = run(USE_OURS + IS_THE_OTHER_ONE, tmp_path, ROOT, library)
    assert done.returncode == 0, done.stderr


def test_an_installed_copy_prefers_its_own_folder(checkout, library):
    """As in a wheel: minivllm/kernels/ is inside the package, and the other library lies beside the package."""
    shutil.move(checkout / "kernels", checkout / "minivllm" / "kernels")
    shutil.copytree(library / "kernels", checkout / "kernels")
    done = run(USE_OURS + IS_THE_OTHER_ONE, checkout)
    assert done.returncode == 0, done.stderr


def test_an_init_file_would_spring_the_trap(checkout, library):
    """The check above can go red: in a copy, one empty file, and transformers finds ours for the library."""
    (checkout / "kernels" / "__init__.py").touch()
    done = run(USE_A_MODEL, checkout, library)
    assert done.returncode != 0
    assert "from 'kernels'" in done.stderr
