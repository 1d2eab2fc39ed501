"""The control plane, and what a user types into it, load without torch: in a fresh process each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "triton", "fastapi")  # importing any of these takes a second or more
LIGHT = (
    "minivllm",
    "minivllm.core.scheduler",
    "minivllm.core.kv_cache_manager",
    "minivllm.config",
    "minivllm.model_config",
    "minivllm.request",
    "minivllm.outputs",
    "minivllm.sampling_params",
    "minivllm.recorder",
    "minivllm.sim.memory_stepper",
    "minivllm.viz.frames",
    "minivllm.viz.stepper",
    "minivllm.course.notebooks",
    "minivllm.zoo",
    "minivllm.course.cli",
    "minivllm.course.learner",
    "minivllm.course.mine",
    "minivllm.course.progress",
    "minivllm.course.shadow",
    "minivllm.parts",
)
REPORT = "import json, sys; print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"


def loaded_after(statement: str) -> list[str]:
    """Run a statement in a new interpreter and list which heavy modules it pulled in."""
    program = f"{statement}; {REPORT.format(heavy=HEAVY)}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_pulls_in_nothing_heavy(module):
    assert loaded_after(f"import {module}") == []


def test_values_are_public_names_without_torch():
    assert loaded_after("from minivllm import EngineConfig, RequestOutput, SamplingParams") == []


def test_the_probe_sees_torch():
    """The check itself can go red."""
    assert "torch" in loaded_after("import torch")
