"""Every kernel compiles to machine code for the GPUs of two generations, though none may be here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minivllm.kernels import _triton

SCRIPT = Path(__file__).with_name("compile_kernels.py")
KERNELS = Path(_triton.__file__).parent
SHARED_MEMORY = {
    80: 163 * 1024,
    90: 227 * 1024,
}  # bytes that one program may use (CUDA C++ Programming Guide)


def compiled(*arguments: str) -> list[dict]:
    """Run the script without the interpreter: whether kernels are interpreted is settled when they are defined."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), *map(str, SHARED_MEMORY), *arguments]
    done = subprocess.run(command, cwd=KERNELS.parent, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(rows: list[dict]) -> None:
    sources = {path.stem: path.read_text(encoding="utf-8") for path in KERNELS.glob("*.py")}
    wanted = {
        f"{s}.{w.split('(')[0]}" for s, t in sources.items() for w in t.split("def ") if "_kernel(" in w[:40]
    }
    assert {row["cache"] for row in rows} >= {"*u8", None}  # 8-bit caches, on GPUs without such a type too
    for capability, limit in SHARED_MEMORY.items():
        mine = [row for row in rows if row["capability"] == capability]
        assert {row["kernel"] for row in mine} == wanted
        assert all(row["bytes"] > 0 and row["shared"] <= limit for row in mine)


@pytest.mark.skipif(not _triton.HAS_TRITON, reason="Triton has no wheel for this system")
def test_every_kernel_compiles_for_both_generations():
    check(compiled())


@pytest.mark.slow
def test_so_do_all_types_and_the_largest_heads():
    check(compiled("--all"))
