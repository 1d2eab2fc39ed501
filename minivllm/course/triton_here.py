"""Triton in exercises: compiled where there is a GPU, interpreted elsewhere, and a plain word where it has no wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from importlib.metadata import version

SETUP = (
    "from minivllm.course.triton_here import prepare_triton",
    "device = prepare_triton()",
)  # for a history


def prepare_triton() -> str:
    """Choose where kernels run, before anything imports Triton: the device that their tensors have to be on.

    Interpreted, a kernel runs as plain Python, one program after the other. That has to be decided before the import.
    """
    if "triton" not in sys.modules and not _has_gpu():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    is_interpreted = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")
    return "cpu" if is_interpreted else "cuda"


def _has_gpu() -> bool:
    """Without asking torch, which the course does not load."""
    return shutil.which("nvidia-smi") is not None and "+cpu" not in version("torch")


def why_not(modules: tuple[str, ...]) -> str:
    """Say in one sentence which of the modules that an exercise requires this system lacks; "" if none."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    names = " and ".join(missing)
    return f"needs {names}, which is not installed here; Triton has packages for Linux only, read the solution instead"
