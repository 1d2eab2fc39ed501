"""An exercise that needs what this system lacks is not graded, and says why; and where kernels run."""

import os
import subprocess
import sys

import pytest

from minivllm.course.catalogue import read_course
from minivllm.course.prove import prove
from minivllm.course.triton_here import why_not


@pytest.fixture
def lacking(tiny):
    """The tiny course, whose first exercise requires a module that nobody has."""
    path = tiny.root / "exercises" / "course" / "ch05_tiny.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('names = ["cdiv"]', 'names = ["cdiv"]\nrequires = ["no_such_module"]'))
    return read_course(tiny.root)


def test_what_cannot_run_is_the_environments_fault_and_nothing_is_recorded(run_pytest, solved, lacking):
    solved("5.1")
    code, said = run_pytest("exercises/ch05_tiny/round_up.py")
    assert code == 3
    assert "cannot run" in said and "needs no_such_module, which is not installed here" in " ".join(
        said.split()
    )
    assert not (lacking.root / "exercises" / ".course" / "state.json").exists()


def test_something_red_weighs_more(run_pytest, solved, lacking):
    solved("5.2", "ref_cnt > 1", "ref_cnt > 0")
    code, said = run_pytest("exercises/ch05_tiny")
    assert code == 1 and "cannot run" in said


def test_the_proof_leaves_it_out_and_says_so(lacking, capsys):
    assert prove(lacking, lacking.chapter(5)) == []
    first, second = capsys.readouterr().out.splitlines()
    assert "needs no_such_module" in first and "mutants red" in second


def test_what_is_there_is_not_missed():
    assert why_not(()) == why_not(("json",)) == ""
    assert why_not(("json", "no_such_module")).startswith("needs no_such_module, which")


@pytest.mark.parametrize(("asked", "device"), [(None, "cpu"), ("1", "cpu"), ("0", "cuda")])
def test_without_a_gpu_kernels_are_interpreted_unless_somebody_said_otherwise(asked, device):
    code = "import shutil; shutil.which = lambda name: None\n"
    code += "from minivllm.course.triton_here import prepare_triton as p; print(p())"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if asked is not None:
        environment["TRITON_INTERPRET"] = asked
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == device
