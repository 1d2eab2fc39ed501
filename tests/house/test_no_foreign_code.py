"""Nothing in the package runs what a stranger's file or message says. Read from the syntax trees.

Weights are safetensors, settings are JSON or plain YAML, messages between processes are JSON and raw tensors. The few
places where text becomes code on purpose, a learner's own exercise and the commands behind `minivllm NAME`, are listed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "minivllm").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])

# Modules whose readers build any object that the bytes name, and those that send objects so between processes.
UNPICKLERS = {
    *("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "pickletools", "copyreg"),
    *("multiprocessing", "torch.multiprocessing"),
}
RUNS_TEXT = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "runpy.run_path",
    "code.interact",
}
ALLOWED = {
    "minivllm/course/grading.py": {"eval", "exec", "compile"},  # runs a learner's code against the laws
    "minivllm/course/learner.py": {"exec", "compile"},  # loads a learner's file, which is Python on purpose
}
SENDS_OBJECTS = re.compile(
    r"(all_gather|broadcast|gather|scatter|send|recv)_object(_list)?|(send|recv)_pyobj"
)


def dotted(node: ast.AST) -> str:
    """`torch.load` of the expression of that name; "" for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def constant(call: ast.Call, name: str) -> object:
    """The value of a keyword argument that is written out; None if there is none."""
    found = [k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)]
    return found[0] if found else None


def complaint_about_call(call: ast.Call) -> str | None:
    name = dotted(call.func)
    module, _, last = name.rpartition(".")
    if name in RUNS_TEXT:
        return name
    if name == "torch.load" and constant(call, "weights_only") is not True:
        return "torch.load without weights_only=True"
    if module in ("np", "numpy") and last == "load" and constant(call, "allow_pickle") is not False:
        return "numpy.load without allow_pickle=False"
    if module == "yaml" and last not in ("safe_load", "safe_dump"):
        return name
    if SENDS_OBJECTS.fullmatch(last):
        return name
    if constant(call, "shell") is True:
        return f"{name} with shell=True"
    if constant(call, "trust_remote_code") is True:
        return f"{name} with trust_remote_code=True"
    return None


def complaints(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            named = {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
            yield from named & UNPICKLERS
        elif isinstance(node, ast.Call) and (found := complaint_about_call(node)):
            yield found


def test_no_file_of_a_stranger_is_run():
    found = {}
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        rest = set(complaints(ast.parse(path.read_text(encoding="utf-8")))) - ALLOWED.get(where, set())
        if rest:
            found[where] = sorted(rest)
    assert len(SOURCES) > 150 and not found


def test_every_exception_is_still_needed():
    for where, allowed in ALLOWED.items():
        assert allowed == set(complaints(ast.parse((ROOT / where).read_text(encoding="utf-8")))), where


@pytest.mark.parametrize(
    "line",
    [
        *(
            "import pickle",
            "from pickle import loads",
            "import torch.multiprocessing",
            "from torch import multiprocessing",
        ),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "np.load(f)", "yaml.load(text)"),
        *("eval(text)", "exec(text)", "os.system(text)", "subprocess.run(text, shell=True)"),
        *("dist.broadcast_object_list(x)", "dist.all_gather_object(a, b)", "socket.recv_pyobj()"),
        "AutoTokenizer.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_what_the_check_would_find(line):
    assert list(complaints(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        *("torch.load(path, weights_only=True)", "yaml.safe_load(text)", "model.eval()", "re.compile(text)"),
        *(
            "torch.compile(model)",
            "subprocess.run(words)",
            "np.load(f, allow_pickle=False)",
            "json.loads(text)",
        ),
    ],
)
def test_what_it_lets_pass(line):
    assert not list(complaints(ast.parse(line)))
