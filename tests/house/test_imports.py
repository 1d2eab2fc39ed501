"""Who may import whom: downwards only. Read from the syntax trees, so nothing has to be imported to check it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import minivllm

ROOT = Path(__file__).resolve().parents[2]

# A unit is a folder or module directly under minivllm/. What stands on the right may be imported by what stands
# on the left, and so may everything below it. The values are one unit: among themselves they are free.
VALUES = (
    "config",
    "events",
    "model_config",
    "model_files",
    "outputs",
    "parts",
    "pooling_params",
    "presets",
    "request",
    "sampling_params",
    "speculative_config",
    "vllm_arguments",
)  # plain data
DIRECTLY_BELOW = {
    "__main__": "",  # the command `minivllm`: runs the modules of others by name
    "run_batch": "serve",
    "serve": "async_engine llm course zoo",
    "bench": "async_engine llm viz zoo",
    "zoo": "llm models hardware",
    "llm": "data_parallel fast_tokenizer",
    "async_engine": "data_parallel request_stream",
    "data_parallel": "engine",
    "request_stream": "values",
    "engine": "beam_search pooler input_processor output_processor tokenizer worker spec_decode",
    "beam_search": "detokenizer worker",
    "pooler": "worker",
    "input_processor": "sampling",
    "output_processor": "detokenizer core",
    "worker": "spec_decode hardware",
    "spec_decode": "models sampling core",
    "models": "quantization lora hardware",
    "quantization": "layers",
    "lora": "layers",
    "layers": "parallel ops",
    "sampling": "ops fast_tokenizer",
    "ops": "attention kernels",
    "attention": "values",
    "parallel": "values",
    "hardware": "values",
    "detokenizer": "values",
    "tokenizer": "fast_tokenizer",
    "fast_tokenizer": "chat_template",
    "chat_template": "values",
    "references": "llm course",  # minivllm/course/extra/: cut as text, run only when graded; knows the course's toys
    "course": "viz core recorder",
    "sim": "viz core",
    "viz": "values",
    "core": "values",
    "recorder": "values",  # stands around core's objects, and names their types only
    "values": "shelf __init__",
    "shelf": "",  # minivllm/zoo/__init__.py alone: where the shipped models lie
    "kernels": "",  # minivllm/kernels.py, the alias; what it leads to has rules of its own
    "__init__": "",  # the version, and public names that are loaded lazily, by string
}
ONLY_IMPORTED_BY = {"kernels": {"ops"}}  # ops.py is the one place that chooses between torch, C++ and Triton
SHELF = (["zoo"], ["zoo", "names"], ["zoo", "path"])  # the module and the functions in it
REFERENCES = ["course", "extra"]
TORCH_FREE = {"__init__", "core", "values", "shelf", "recorder", "viz", "sim", "course", "kernels"}
NEVER_BY_NAME = {
    "kernels",
    "exercises",
    "solutions",
    "tests",
    "notebooks",
    "book",
}  # top-level folders, not packages


class Import(NamedTuple):
    """One imported module, as an absolute dotted name, and the line that imports it."""

    module: str
    line: int


def type_checking_lines(tree: ast.AST) -> set[int]:
    """Find the lines under `if TYPE_CHECKING:`, which never run."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    return {line for n in blocks for s in n.body for line in range(s.lineno, (s.end_lineno or s.lineno) + 1)}


def modules_of(node: ast.AST, package: list[str]) -> list[str]:
    """List what one node imports; `package` resolves relative imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        stem = ".".join([*base, *([node.module] if node.module else [])])
        return [f"{stem}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rsplit(".", 1)[-1]
        return [str(node.args[0].value)] if called in ("import_module", "__import__") else []
    return []


def imports_of(path: Path, package: list[str]) -> Iterator[Import]:
    """Yield every import of a file that can run, wherever in the file it stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    never_run = type_checking_lines(tree)
    for node in ast.walk(tree):
        for module in modules_of(node, package):
            if node.lineno not in never_run:
                yield Import(module, node.lineno)


def unit_of(parts: list[str]) -> str:
    """Name the unit of a module, or of a public name, given as the parts after `minivllm`."""
    if len(parts) == 1 and parts[0] in minivllm.__all__:
        parts = minivllm._MODULE_OF.get(parts[0], "minivllm").split(".")[1:]
    if parts in SHELF:
        return "shelf"
    if parts[:2] == REFERENCES:
        return "references"
    unit = parts[0] if parts else "__init__"
    return "values" if unit in VALUES else unit


@cache
def below(unit: str) -> frozenset[str]:
    """Everything that a unit may import: what stands below it, and itself."""
    return frozenset({unit}.union(*(below(lower) for lower in DIRECTLY_BELOW[unit].split())))


def complaint(unit: str, module: str) -> str | None:
    """Say what is wrong with `unit` importing `module`; None when nothing is."""
    top, *rest = module.split(".")
    if top in NEVER_BY_NAME:
        return f"imports {top} by name"
    if top == "torch" and unit in TORCH_FREE:
        return "imports torch, and must load without it"
    if top != "minivllm":
        return None
    target = unit_of(rest)
    if target not in DIRECTLY_BELOW:
        return f"imports {module}, which is in no row of the table; neither a module nor a public name"
    if target not in below(unit):
        return f"imports {target}, which does not stand below it"
    if target != unit and unit not in ONLY_IMPORTED_BY.get(target, {unit}):
        return f"imports {target}, which only {', '.join(ONLY_IMPORTED_BY[target])} may"
    return None


def package_violations(path: Path, where: str) -> Iterator[str]:
    """Yield what one file of the package does against the table; `where` is its path below the root."""
    parts = list(Path(where).with_suffix("").parts)
    unit = unit_of([part for part in parts[1:] if part != "__init__"])
    if unit not in DIRECTLY_BELOW:
        yield f"{where}: {unit} has no row in the table"
        return
    for found in imports_of(path, package=parts[:-1]):
        if reason := complaint(unit, found.module):
            yield f"{where}:{found.line}: {reason}"


def kernel_violations(path: Path, where: str) -> Iterator[str]:
    """Yield what one file of kernels/ imports of ours: nothing but its siblings, relatively."""
    for found in imports_of(path, package=["<siblings>"]):
        top = found.module.split(".")[0]
        if top in NEVER_BY_NAME or top == "minivllm":
            yield f"{where}:{found.line}: a kernel imports {top}"


def violations(root: Path) -> list[str]:
    """Check the package and kernels/ under `root` and return one line per violation."""
    found: list[str] = []
    for folder, check in (("minivllm", package_violations), ("kernels", kernel_violations)):
        for path in sorted((root / folder).rglob("*.py")):
            found += check(path, path.relative_to(root).as_posix())
    return found


def test_the_package_imports_downwards_only():
    assert violations(ROOT) == []


def test_every_unit_in_the_table_reaches_the_values_or_nothing():
    """The table itself has no cycle and no unknown name: `below` would recurse for ever or raise."""
    assert {unit for unit in DIRECTLY_BELOW if below(unit)} == set(DIRECTLY_BELOW)


PLANTED = [
    ("minivllm/core/scheduler.py", "import torch", "imports torch"),
    ("minivllm/core/scheduler.py", "def f():\n    from torch import nn", "imports torch"),
    ("minivllm/config.py", "import torch.cuda", "imports torch"),
    ("minivllm/core/scheduler.py", "from minivllm.engine import LLMEngine", "imports engine"),
    ("minivllm/core/scheduler.py", "from ..worker import model_runner", "imports worker"),
    ("minivllm/request.py", "from minivllm.core.block_pool import BlockPool", "imports core"),
    ("minivllm/config.py", "from minivllm.zoo.train import main", "imports zoo"),
    ("minivllm/zoo/__init__.py", "import torch", "imports torch"),
    ("minivllm/layers/linear.py", "import minivllm.models.loader", "imports models"),
    ("minivllm/layers/linear.py", "from minivllm.core import scheduler", "imports core"),
    (
        "minivllm/layers/linear.py",
        "from importlib import import_module\nimport_module('minivllm.llm')",
        "imports llm",
    ),
    (
        "minivllm/layers/linear.py",
        "from minivllm.kernels.copy_blocks import copy_blocks_torch",
        "which only ops may",
    ),
    ("minivllm/engine.py", "from minivllm import LLM", "imports llm"),
    ("minivllm/engine.py", "from minivllm import Sparrow", "in no row"),
    ("minivllm/serve/app.py", "from minivllm import bench", "imports bench"),
    ("minivllm/ops.py", "import kernels", "imports kernels by name"),
    ("minivllm/llm.py", "from exercises.ch05 import part", "imports exercises by name"),
    ("minivllm/novelty.py", "", "has no row"),
    ("kernels/a.py", "from minivllm.config import EngineConfig", "a kernel imports minivllm"),
    ("kernels/a.py", "from kernels import b", "a kernel imports kernels"),
]


def plant(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("name", "text", "expected"), PLANTED)
def test_a_planted_violation_is_found(tmp_path, name, text, expected):
    plant(tmp_path, name, text)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{name}:")
    assert expected in found


ALLOWED = [
    ("minivllm/core/scheduler.py", "from .block_pool import BlockPool\nfrom minivllm.request import Request"),
    ("minivllm/engine.py", "import torch\nfrom minivllm.attention.paged import attend"),
    ("minivllm/parts.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"),
    ("minivllm/ops.py", "from minivllm.kernels.copy_blocks import copy_blocks_torch"),
    ("minivllm/config.py", "from minivllm import zoo"),
    ("minivllm/zoo/evaluate.py", "from minivllm import LLM, SamplingParams, __version__"),
    ("kernels/a.py", "import torch\nfrom . import b\nfrom .b import c"),
]


@pytest.mark.parametrize(("name", "text"), ALLOWED)
def test_what_is_allowed_is_not_reported(tmp_path, name, text):
    plant(tmp_path, name, text)
    assert violations(tmp_path) == []
