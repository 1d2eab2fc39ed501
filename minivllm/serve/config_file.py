"""`--config flags.yaml`: the flags of the command line in a file, as `vllm serve --config` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_BYTES = 1_000_000


def expand_config(argv: Sequence[str]) -> list[str]:
    """The arguments with those of the file before the typed flags, so that what is typed wins.

    Raises:
        ValueError: the file cannot be read, or holds something that is no flag.
    """
    path = _path_in(argv)
    if path is None:
        return list(argv)
    num_first = int(not argv[0].startswith("-"))  # the model, which a list from the file must not swallow
    return [*argv[:num_first], *_flags(_read(path), path), *argv[num_first:]]


def _path_in(argv: Sequence[str]) -> str | None:
    for index, word in enumerate(argv):
        if word.startswith("--config="):
            return word.removeprefix("--config=")
        if word == "--config" and index + 1 < len(argv):
            return argv[index + 1]
    return None


def _read(path: str) -> dict[str, Any]:
    import yaml  # only those who use a file need it

    file = Path(path)
    if not file.is_file():
        raise ValueError(f"--config: there is no file {path}")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"--config: {path} is larger than {MAX_BYTES} bytes")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"--config: {path} is not valid YAML: {' '.join(str(error).split())[:300]}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"--config: {path} must hold lines such as `port: 9000`")
    return content


def _flags(content: dict[str, Any], path: str) -> list[str]:
    """`a: 1` -> --a=1; `a: true` -> --a; `a: false` -> nothing; `a: [x, y]` -> --a x y."""
    words: list[str] = []
    for name, value in content.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list) and not any(isinstance(one, (list, dict)) for one in value):
            words += [flag, *map(str, value)]
        elif isinstance(value, (dict, list)):
            raise ValueError(
                f"--config: {name} in {path} must be a number, a text, true, false, or a list of those"
            )
        elif value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words.append(f"{flag}={value}")
    return words
