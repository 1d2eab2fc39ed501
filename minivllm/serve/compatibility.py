"""`python -m minivllm.serve.compatibility [--check]`: write book/compatibility.md from compatibility.toml.

Every row names the tests that show it, and every refusal on the page is what the program said when it was asked just
now. `--check` writes nothing and fails when the page is not what would be written.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from minivllm.serve.answers import Answers, Probe
from minivllm.serve.arguments import make_parser
from minivllm.serve.protocol import NOT_SERVED
from minivllm.serve.refusals import flag_of, refused_names
from minivllm.vllm_arguments import REFUSED as REFUSED_ARGUMENTS
from minivllm.vllm_arguments import WITHOUT_EFFECT, Refusal

PAGE = "book/compatibility.md"


def read_rows() -> list[dict[str, Any]]:
    """The table: `number`, `section`, `feature`, `here`, `tests`, `refused`."""
    rows = tomllib.loads(files("minivllm.serve").joinpath("compatibility.toml").read_text("utf-8"))["row"]
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1)), "the rows are numbered from 1"
    return rows


def missing_tests(rows: Sequence[Mapping[str, Any]], root: Path) -> list[str]:
    """Tests that rows name and that are not below `root`/tests."""
    names: dict[str, set[str]] = {}
    missing = []
    for test in (test for row in rows for test in row["tests"]):
        file, _, name = test.partition("::")
        if file not in names:
            path = root / "tests" / file
            tree = ast.parse(path.read_text("utf-8") if path.is_file() else "")
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
            names[file] = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        if name not in names[file]:
            missing.append(test)
    return missing


def render(rows: Sequence[Mapping[str, Any]], answers: Answers) -> str:
    """The page, as Markdown."""
    parts = [_HEAD.format(num_rows=len(rows))]
    for row in rows:
        if "section" in row:
            parts.append(f"\n### {row['section']}\n\n| | vLLM | here | shown by |\n|---|---|---|---|\n")
        parts.append(_row(row, answers))
    return "".join(parts) + _TAIL.format(
        flags=_flags(),
        refused=_lines({flag_of(n): REFUSED_ARGUMENTS[n] for n in refused_names()}),
        without=_lines({flag_of(name): why for name, why in WITHOUT_EFFECT.items()}),
        fields=_lines(NOT_SERVED),
    )


def _row(row: Mapping[str, Any], answers: Answers) -> str:
    here = row["here"]
    for probe in row.get("refused", ()):
        here += f"<br>{_shown(probe)} is answered: *{_cell(answers.sentence(probe))}*"
    tests = "<br>".join(map(_test, row["tests"]))
    return f"| {row['number']} | {_cell(row['feature'])} | {here} | {tests} |\n"


def _test(test: str) -> str:
    """serve/test_api.py::test_small_routes in words, which can be broken where a line ends."""
    file, _, name = test.partition("::")
    return f"*{name.removeprefix('test_').replace('_', ' ')}* in `{file}`"


def _shown(probe: Probe) -> str:
    """The input as a user would write it."""
    ((kind, given),) = probe.items()
    if kind == "flags":
        text = " ".join(given)
    elif kind == "llm":
        text = f"LLM({', '.join(f'{name}={value!r}' for name, value in given.items())})"
    elif kind == "prompt":
        text = f"LLM.generate({given!r})"
    else:
        text = f"POST {given[0]} {json.dumps(given[1])}"
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    """Text that stays in its cell, and in which nothing is markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _flags() -> str:
    """The flags that are served, by group."""
    lines = []
    for group in make_parser()._action_groups:
        shown = [a for a in group._group_actions if a.option_strings and a.help != argparse.SUPPRESS]
        names = [f"`{next(o for o in a.option_strings if o.startswith('--'))}`" for a in shown]
        if names:
            lines.append(f"- {group.title}: {', '.join(names)}")
    return "\n".join(lines)


def _lines(reasons: Mapping[str, str | Refusal]) -> str:
    lines = []
    for name, reason in reasons.items():
        why, harmless = reason if isinstance(reason, Refusal) else (reason, ())
        allowed = f" (accepted: {', '.join(map(str, harmless))})" if any(map(str, harmless)) else ""
        lines.append(f"- `{name}`: {_cell(why)}{allowed}")
    return "\n".join(lines)


_HEAD = """\
# What of vLLM works here

Guides to vLLM name {num_rows} features, flags and figures; each has its row. Either it works, and a test shows it, or
it is answered by a sentence: the sentences in italics are what the program said when this page was made. Nothing is
left out without a word, because an answer that only looks right is worse than none.

The last column names tests by their file below `tests/` and the words of their name: *small routes* in
`serve/test_api.py` is `test_small_routes`. `python -m minivllm.serve.compatibility` writes this page.

## Row by row
"""

_TAIL = """
## Flags of `vllm serve`

Served, with vLLM's spelling (`python -m minivllm.serve --help` tells the defaults):

{flags}

Known and not served; `LLM(...)` answers the same:

{refused}

Accepted, with a warning that they do nothing:

{without}

## Fields of requests that are refused

Fields that nobody knows are ignored, as vLLM and OpenAI do. These are known and not served:

{fields}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or compare it.

    Returns:
        The exit status: 0, or 1 when the page is out of date or a named test is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m minivllm.serve.compatibility", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    parser.add_argument("--root", type=Path, default=Path(), help="of the checkout (default: this folder)")
    args = parser.parse_args(argv)
    rows = read_rows()
    if missing := missing_tests(rows, args.root):
        print("there are no such tests:", *missing, sep="\n  ", file=sys.stderr)
        return 1
    text, page = render(rows, Answers()), args.root / PAGE
    if not args.check:
        page.write_text(text, encoding="utf-8")
        print(f"written: {page}")
        return 0
    if page.is_file() and page.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE} is out of date: run python -m minivllm.serve.compatibility", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
