"""The JSON files of a model's folder, and the values in them. No torch in here.

A folder may come from anybody. Whatever is in its files, the answer is a value that the rest of the package can use, or
a ValueError of one sentence that names the file and the entry.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 64 * 2**20  # the index of a model with a hundred thousand tensors has about 10 MB
MAX_SIZE = 2**31 - 1  # of any dimension


def read_json_object(file: Path) -> dict[str, Any]:
    """The one JSON object in `file`.

    Raises:
        ValueError: it is too large, no JSON, or another kind of value.
    """
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} is larger than {MAX_BYTES // 2**20} MiB, which no such file of a model is.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{file} is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:  # the syntax, the encoding, or a number of thousands of digits
        raise ValueError(f"{file} is not valid JSON: {str(error).partition(';')[0]}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold one JSON object, not a {type(content).__name__}.")
    return content


def whole_number(name: str, value: Any, limit: int = MAX_SIZE) -> int:
    """`value` in [1, limit]; `name` begins with the file."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {short(value)}.")
    if value > limit:
        raise ValueError(f"{name} must be at most {limit}, got {short(value)}.")
    return value


def number(name: str, value: Any, low: float = 0.0) -> float:
    """`value` as a float that is finite and at least `low`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least {low:g}, got {short(value)}.")
    return float(value)


def switch(name: str, value: Any) -> bool:
    """`value`, which must be true or false; null is false."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {short(value)}.")
    return bool(value)


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """`value`, which must be an object; null is an empty one."""
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, got {short(value)}.")
    return value or {}


def texts(name: str, value: Any) -> list[str]:
    """`value`, which must be a list of strings; null is an empty one."""
    if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ValueError(f"{name} must be a list of strings, got {short(value)}.")
    return value or []


def token_ids(name: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    """The ids in `value`, which is one, a list, or null."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for one in ids:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < vocab_size:
            raise ValueError(f"{name} must be token ids in [0, {vocab_size - 1}], got {short(one)}.")
    return tuple(ids)


def short(value: Any) -> str:
    """`value` as it is shown in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
