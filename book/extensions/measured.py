"""Numbers that come from where they are made: `{measured}` and `{peers}` from results, `{presets}` from the package.

{measured}`FILE/KEY/KEY:FORMAT`: a number of a committed result, read when the page is made.

FILE is a result in minivllm/bench/results/ without its ending, an item of a list is named by its index, and FORMAT is
Python's. What does not exist fails the build, so a figure cannot outlive its source.

    {measured}`prefix-caching/speedup:.1f`      4.9
    {measured}`kv-waste/rows/0/paged_waste:.1%` 1.8%
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from minivllm.presets import PRESETS

RESULTS = Path(__file__).resolve().parents[2] / "minivllm" / "bench" / "results"


def look_up(text: str, results: Path = RESULTS) -> str:
    """The value that a role's text stands for, formatted.

    Raises:
        ValueError: there is no such result, key or format.
    """
    path, _, form = text.partition(":")
    name, *keys = path.strip().split("/")
    file = results / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"there is no result {file.name}")
    value: Any = json.loads(file.read_text(encoding="utf-8"))
    for key in keys:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{file.name} has no {'/'.join(keys)}") from error
    if isinstance(value, (dict, list)):
        raise ValueError(f"{path.strip()} is not one value")
    return format(value, form.strip())


def measured(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None
) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """The role."""
    try:
        shown = look_up(text)
    except ValueError as error:
        message = inliner.reporter.error(f"{rawtext}: {error}", line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    return [nodes.inline(rawtext, shown, classes=["measured"])], []


class PresetTable(Directive):
    """One row a parameter, one column a preset."""

    def run(self) -> list[nodes.Node]:
        lines = ["| | " + " | ".join(PRESETS) + " |", "|---" * (len(PRESETS) + 1) + "|"]
        for name in next(iter(PRESETS.values())):
            values = [f"{preset[name]:,}" for preset in PRESETS.values()]
            lines.append(f"| `{name}` | " + " | ".join(values) + " |")
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, "presets.py"), self.content_offset, parent)
        return parent.children


class PeerTable(Directive):
    """`{peers} RESULT`: a row for each engine of `python -m minivllm.bench peers`, two columns for each workload."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        result = json.loads((RESULTS / f"{self.arguments[0]}.json").read_text(encoding="utf-8"))
        parent = nodes.container()
        self.state.nested_parse(
            StringList(list(peer_rows(result)), self.arguments[0]), self.content_offset, parent
        )
        return parent.children


def peer_rows(result: dict[str, Any]) -> Iterator[str]:
    """The lines of a table: tokens per second, how many times that we reach (and the spread of it), peak memory."""
    workloads = result["workloads"]
    yield "| | " + " | ".join(f"{name}, tokens/s | minivllm" for name in workloads) + " | peak MiB |"
    yield "|---" + "|---:" * (2 * len(workloads) + 1) + "|"
    for engine in result["engines"]:
        cells = []
        for row in (workload["engines"][engine] for workload in workloads.values()):
            ratio = row["ratio_of_minivllm"]
            times = f"{ratio['median']:.2f}x ({ratio['min']:.2f}\u00a0-\u00a0{ratio['max']:.2f})"
            cells += [f"{row['output_tokens_per_second']:,.0f}", "" if engine == "minivllm" else times]
        peak = max(workload["engines"][engine]["peak_mib"] for workload in workloads.values())
        yield f"| {engine} | " + " | ".join(cells) + f" | {peak:,} |"


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role("measured", measured)
    app.add_directive("presets", PresetTable)
    app.add_directive("peers", PeerTable)
    return {"parallel_read_safe": True}
