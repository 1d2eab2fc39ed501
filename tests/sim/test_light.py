"""The simulators load and run on the standard library: in a fresh process, so that nothing lingers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "numpy", "matplotlib", "pydantic")
REPORT = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
RUN = "from minivllm.sim.cli import main; main({arguments!r})"


def loaded_after(program):
    """Run a program in a new interpreter; its last line says which heavy modules it pulled in."""
    command = [sys.executable, "-c", f"{program}\n{REPORT}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_module_of_the_simulators_pulls_in_anything_heavy():
    folder = ROOT / "minivllm" / "sim"
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(folder.rglob("*.py"))
    ]
    names = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
    assert len(names) > 10
    assert loaded_after("import " + ", ".join(["minivllm.viz.palette", *names])) == []


@pytest.mark.parametrize("command", ["memory", "schedule"])
def test_a_run_pulls_in_nothing_heavy(command):
    assert loaded_after(RUN.format(arguments=[command, "--num-requests", "5"])) == []


def test_the_probe_sees_what_a_plot_needs(tmp_path):
    """The check itself can go red."""
    pytest.importorskip("matplotlib")
    arguments = ["memory", "--num-requests", "5", "--policy", "paged", "--plot", str(tmp_path / "x.png")]
    assert {"numpy", "matplotlib"} <= set(loaded_after(RUN.format(arguments=arguments)))
