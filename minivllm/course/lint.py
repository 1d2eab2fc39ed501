"""The conventions of a notebook, checked: a reader who knows one chapter finds their way in every other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minivllm.course.first_use import unlinked
from minivllm.course.glossary import PAGE, terms

PARTS = ("Question", "Predict", "Picture", "Naive code", "Build", "Prove", "Measure", "Compare with vLLM")
RECALL = "Recall"
NUM_RECALL_QUESTIONS = 5
MAX_CELL_LINES = 25
MAX_LINE = 110  # as everywhere in the project
MAX_OUTPUT_BYTES = 300_000
TAGS = {"stable", "measure", "gpu"}
INSTALLS = re.compile(
    r"^\s*[!%]\s*(pip3?|uv|conda|mamba|apt(-get)?)\b|\bpip install\b|\bapt(-get)? install\b", re.M
)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
FOLDED = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.S)
OUTSIDE = re.compile(r"""(?:src|href)=\\?["']https?://|@import|url\(https?://""")
MACHINE = re.compile(r"/(?:hom[e]|User[s]|roo[t]|tm[p])/\w| at 0x[0-9a-f]{6,}")


def lint(path: Path, notebook: dict[str, Any]) -> Iterator[str]:
    """One sentence for each convention that the notebook breaks."""
    cells = notebook["cells"]
    prose = "\n\n".join(_source(cell) for cell in cells if cell["cell_type"] == "markdown")
    yield from _check_frame(path, notebook)
    yield from _check_opening(path, cells)
    yield from _check_parts(prose)
    yield from _check_recall(prose)
    yield from _check_links(path, prose)
    yield from _check_first_uses(cells[1:])
    for cell in cells:
        if cell["cell_type"] == "code":
            yield from _check_code(cell)
    size = sum(len(json.dumps(cell.get("outputs", []))) for cell in cells)
    if size > MAX_OUTPUT_BYTES:
        yield f"the outputs take {size:,} bytes, more than {MAX_OUTPUT_BYTES:,}: draw fewer frames"


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])  # a string, or a list of lines


def _check_frame(path: Path, notebook: dict[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name):
        yield "the file name must be NN_name.ipynb, in lower case"
    if (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
        yield "the file must be nbformat 4.5: open and save it in a current JupyterLab"
    ids = [cell.get("id") for cell in notebook["cells"]]
    if None in ids or len(set(ids)) != len(ids):
        yield "every cell needs an id of its own"


def _check_opening(path: Path, cells: list[dict[str, Any]]) -> Iterator[str]:
    opening = _source(cells[0]) if cells else ""
    if not re.match(rf"# {path.name[:2]} \S", opening):
        yield f"the first cell must begin with the title, '# {path.name[:2]} ...'"
    goals = opening.partition("**Goals**")[2]
    if not 2 <= len(re.findall(r"^- \S", goals, re.M)) <= 6:
        yield "the first cell must list two to six goals under **Goals**, each a line that begins with '- '"


def _check_parts(prose: str) -> Iterator[str]:
    found = re.findall(r"^## (.+?)(?::.*)?$", prose, re.M)
    wanted = [f"{number}. {part}" for number, part in enumerate(PARTS, start=1)] + [RECALL]
    if found != wanted:
        yield f"the headings must be {', '.join(repr(f'## {part}') for part in wanted)}, not {found}"


def _check_recall(prose: str) -> Iterator[str]:
    folded = FOLDED.findall(prose.rpartition(f"## {RECALL}")[2])
    if len(folded) != NUM_RECALL_QUESTIONS or not all(
        question.strip() and answer.strip() for question, answer in folded
    ):
        yield (
            f"{RECALL} must hold {NUM_RECALL_QUESTIONS} questions with folded answers, each "
            f"<details><summary>question</summary> answer </details>; {len(folded)} were found"
        )


def _check_links(path: Path, prose: str) -> Iterator[str]:
    targets = LINK.findall(prose)
    linked = {target.partition("#")[2] for target in targets if target.startswith(f"{PAGE}#")}
    for anchor in sorted(linked - terms().keys()):
        yield f"the glossary has no term {anchor!r}"
    here = {anchor: term for anchor, term in terms().items() if term.chapter == int(path.name[:2])}
    for anchor, term in here.items():
        if anchor not in linked:
            yield f"the term {term.name!r} belongs to this chapter: link it on first use, ({PAGE}#{anchor})"
    for alt, target in IMAGE.findall(prose):
        targets.append(target)
        if len(alt) < 10:
            yield f"the image {target} needs a text for those who do not see it"
    for target in targets:
        place = target.partition("#")[0]
        if place and "://" not in place and not (path.parent / place).exists():
            yield f"the link {target} leads nowhere"


def _check_first_uses(cells: list[dict[str, Any]]) -> Iterator[str]:
    prose = [(cell.get("id", ""), _source(cell)) for cell in cells if cell["cell_type"] == "markdown"]
    for use in unlinked(prose):
        yield (
            f"cell {use.cell} uses {use.word!r} for the first time: link it there, ({PAGE}#{use.term.anchor})"
        )


def _check_code(cell: dict[str, Any]) -> Iterator[str]:
    source, name = _source(cell), cell.get("id")
    lines, outputs = source.count("\n") + 1, cell["outputs"]
    tags = set(cell["metadata"].get("tags", [])) & TAGS
    if lines > MAX_CELL_LINES:
        yield f"cell {name} has {lines} lines, more than {MAX_CELL_LINES}: show long code from the package"
    if max(map(len, source.splitlines()), default=0) > MAX_LINE:
        yield f"cell {name} has a line of more than {MAX_LINE} characters"
    if INSTALLS.search(source):
        yield f"cell {name} installs something: what a chapter needs belongs in pyproject.toml"
    if not source.strip():
        yield f"cell {name} is empty"
    if outputs and len(tags) != 1:
        yield f"cell {name} has an output, so it needs one of the tags {', '.join(sorted(TAGS))}"
    for output in outputs:
        yield from _check_output(f"cell {name}", output)


def _check_output(name: str, output: dict[str, Any]) -> Iterator[str]:
    if output["output_type"] == "error":
        yield f"{name} raises {output['ename']}: catch and print what is meant to fail"
    if output.get("name") == "stderr":
        yield f"{name} writes to stderr: {_joined(output['text'])[:60]!r}"
    data = {kind: _joined(value) for kind, value in output.get("data", {}).items()}
    text = data.get("text/plain", _joined(output.get("text", "")))
    html, svg = data.get("text/html", ""), data.get("image/svg+xml", "")
    if match := MACHINE.search(text + html):
        yield f"{name} shows what only this machine has: {match.group()!r}"
    if OUTSIDE.search(html + svg):
        yield f"{name} loads something from the network"
    has_picture = any(kind.startswith("image/") for kind in data)
    if has_picture and (len(text) < 20 or text.startswith("<")):
        yield f"{name} shows a picture without a description: show a Drawing, a Stepper or a Plot(figure, alt)"
    if "<svg" in svg and "<title>" not in svg:
        yield f"{name} shows an SVG without a title"
    if re.search(r"<img(?![^>]*\balt=)", html):
        yield f"{name} shows an image without alt text"


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
