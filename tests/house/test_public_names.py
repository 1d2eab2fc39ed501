"""`from minivllm import ...`: every public name arrives, late and from where the package says it is."""

import ast
from pathlib import Path

import pytest

import minivllm

NAMES = [name for name in minivllm.__all__ if name != "__version__"]


def type_checking_imports() -> dict[str, str]:
    """Read the names as a type checker sees them: name -> module."""
    tree = ast.parse(Path(minivllm.__file__).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    return {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_the_class_of_that_name(name):
    value = getattr(minivllm, name)
    assert value.__name__ == name
    assert value.__module__.startswith("minivllm.")


def test_run_time_and_type_checker_agree():
    assert type_checking_imports() == minivllm._MODULE_OF
    assert set(NAMES) == set(minivllm._MODULE_OF)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Sparrow'"):
        minivllm.Sparrow  # noqa: B018


def test_tab_completion_lists_the_public_names():
    assert set(minivllm.__all__) <= set(dir(minivllm))
