"""The shadow of a function part: every call goes to yours and to the reference, and the results have to be equal.

Nothing here knows tensors from arrays: both have `tolist`, and slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minivllm.course.history import find_file, relative_file
from minivllm.course.shadow_attention import is_paged_batch, smaller_batch
from minivllm.parts import PartFiles, files_of, load_part, reference_of

Function = Callable[..., Any]
TOLERANCE = 1e-5  # relative and absolute: another order of the same sums is no mistake


class FunctionDifferenceError(Exception):
    """Your function and the reference gave different results for the same arguments."""


def shadowed_function(part: str, mine: Function, file: Path, tell: Callable[[str], None] = print) -> Function:
    """`mine`, which also calls the reference and stops at the first different result.

    Args:
        part: its name in `Parts`.
        mine: your function.
        file: where the failing test is written.
        tell: is given the report.
    """
    reference = reference_of(part)

    def both(*arguments: Any) -> Any:
        wanted = reference(*arguments)
        try:
            got = mine(*arguments)
        except Exception as error:  # noqa: BLE001  it is raised again, as what it means
            got = error
        if is_equal(got, wanted):
            return got
        fewer = smaller_arguments(arguments, lambda a: _differs(mine, reference, a))
        write_function_test(file, part, files_of(mine), fewer)
        says = (
            f"Your {part} and the reference give different results.\n\n"
            f"Arguments:\n{_shown(fewer)}\nYours:          {_plain(_result(mine, fewer))}\n"
            f"The reference:  {_plain(reference(*fewer))}\n\nAs a test: python -m pytest {file}"
        )
        tell(says)
        raise FunctionDifferenceError(says)

    both._part_files = files_of(mine)  # type: ignore[attr-defined]
    return both


def _differs(mine: Function, reference: Function, arguments: Sequence[Any]) -> bool:
    """Arguments that the reference does not take, such as an index of a column that was left out, show nothing."""
    wanted = _result(reference, arguments)
    return not isinstance(wanted, Exception) and not is_equal(_result(mine, arguments), wanted)


def _result(function: Function, arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001  an exception is a result, and a wrong one
        return error


def is_equal(one: Any, other: Any) -> bool:
    """Equal shape and values; floats up to TOLERANCE, infinities and NaN exactly."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return False
    return _is_equal(_plain(one), _plain(other))


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(one) is type(other) and bool(one == other)


def smaller_arguments(arguments: Sequence[Any], differs: Callable[[Sequence[Any]], bool]) -> Sequence[Any]:
    """One row of the arguments instead of R, and few of its columns instead of V, where that still differs."""
    first = arguments[0]
    if is_paged_batch(arguments):
        return smaller_batch(arguments, differs)
    if getattr(first, "ndim", 0) != 2:
        return arguments
    num_rows, num_columns = first.shape
    for row in range(num_rows):
        one = [a[row : row + 1] if _length(a) == num_rows else a for a in arguments]
        if num_rows > 1 and differs(one):
            arguments = one
            break
    values = arguments[0][0].tolist()
    order = sorted(range(num_columns), key=lambda column: -values[column])
    for count in (2, 3, 4, 8, 16, 64):
        columns = sorted(order[:count])
        few = [a[:, columns] if getattr(a, "ndim", 0) == 2 else a for a in arguments]
        if count < num_columns and differs(few):
            return few
    return arguments


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "shape") and value.shape else -1


def _plain(value: Any) -> Any:
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _shown(arguments: Sequence[Any]) -> str:
    return "".join(f"  {str(_plain(a))[:300]}\n" for a in arguments)


def _code(value: Any) -> str:
    """An expression that gives `value` again."""
    if not hasattr(value, "tolist"):
        return repr(value)
    kind = str(value.dtype)
    if kind.startswith("torch."):
        return f"torch.tensor({value.tolist()}, dtype={kind})"
    return f"np.array({value.tolist()}, dtype=np.{kind})"


PYTEST_FILE = '''"""A call for which {part} and the reference give different results. Run it: python -m pytest {file}"""

{imports}
from minivllm.course.shadow_function import check_call

inf, nan = float("inf"), float("nan")
# Whose code runs: (file, name in it). With [] the reference runs alone, and the test is green.
MINE = {files}
ARGUMENTS = [
{arguments}
]


def test_the_result_is_the_references():
    check_call("{part}", MINE, ARGUMENTS)
'''


def write_function_test(file: Path, part: str, files: PartFiles, arguments: Sequence[Any]) -> None:
    """Write the call as a test that anybody can run."""
    lines = [_code(argument) for argument in arguments]
    modules = {"np.": "import numpy as np", "torch.": "import torch"}
    imports = [
        statement for start, statement in modules.items() if any(line.startswith(start) for line in lines)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = PYTEST_FILE.format(
        part=part,
        file=file.name,
        imports="\n".join([*imports, ""]),
        files=[(relative_file(path), name) for path, name in files],
        arguments="\n".join(f"    {line}," for line in lines),
    )
    file.write_text(text, encoding="utf-8")


def check_call(part: str, files: PartFiles, arguments: Sequence[Any]) -> None:
    """Call the part that comes from `files` and the reference.

    Raises:
        FunctionDifferenceError: the results differ.
    """
    reference = reference_of(part)
    mine = load_part(part, [(str(find_file(file)), name) for file, name in files]) if files else reference
    got, wanted = _result(mine, arguments), reference(*arguments)
    if not is_equal(got, wanted):
        raise FunctionDifferenceError(f"{part} gives {_plain(got)}, the reference {_plain(wanted)}")
