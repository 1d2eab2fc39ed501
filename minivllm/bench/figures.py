"""The headline figures of the book: a plot for each from its committed result, and the page that shows them.

`--measure` runs every benchmark first, which takes minutes, and writes results in the place of the committed ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from minivllm.bench.headlines import HEADLINES, Headline
from minivllm.bench.report import RESULTS
from minivllm.viz.bars import draw_bars

BOOK = Path(__file__).resolve().parents[2] / "book"
INTRODUCTION = """\
# Headline figures

What guides to vLLM promise, measured here: on a small model, on a laptop's kind of machine, with one command.

    make figures
    python -m minivllm.bench figures --measure

The first draws them again from the committed results; the second measures first, on your machine, and takes minutes.
The numbers below are read from the result files when this page is written, never typed. Compare ratios, not seconds:
the model is tiny, and the two sides of a ratio ran in turns on one machine.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench figures`."""
    parser.add_argument("--measure", action="store_true", help="run the benchmarks first; takes minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these benchmarks; default: all")
    parser.add_argument("--results", metavar="FOLDER", default=str(RESULTS), help="where results stand")
    parser.add_argument("--book", metavar="FOLDER", default=str(BOOK), help="where plots and page go")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure if asked to, draw, and write the page."""
    results, book = Path(args.results), Path(args.book)
    chosen = _chosen(args.only)
    if args.measure:
        for headline in chosen:
            _measure(headline.name, results / f"{headline.name}.json")
    written = [draw(headline, results, book) for headline in chosen]
    page = book / "figures.md"
    page.write_text(page_text(results, book), encoding="utf-8")
    for path in [*filter(None, written), page]:
        print("written:", path)
    return {"figures": [headline.name for headline, path in zip(chosen, written, strict=True) if path]}


def read(name: str, results: Path) -> dict[str, Any] | None:
    """A result; None if this benchmark has none yet."""
    path = results / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def draw(headline: Headline, results: Path, book: Path) -> Path | None:
    """Write one plot; None if there is nothing to draw."""
    result = read(headline.name, results)
    if result is None:
        return None
    target = book / "images" / f"figure_{headline.name.replace('-', '_')}.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(draw_bars(headline.bars(result)).to_svg(), encoding="utf-8")
    return target


def page_text(results: Path = RESULTS, book: Path = BOOK) -> str:
    """book/figures.md."""
    sections = [_section(headline, read(headline.name, results), results, book) for headline in HEADLINES]
    return "\n".join([INTRODUCTION, *sections])


def _section(headline: Headline, result: dict[str, Any] | None, results: Path, book: Path) -> str:
    lines = [f"## {headline.title}", "", f"**Promised:** {headline.claimed}", ""]
    if result is None:
        lines += [f"Not measured yet: `python -m minivllm.bench figures --measure --only {headline.name}`."]
    else:
        alt = draw_bars(headline.bars(result)).alt.replace("[", "(").replace("]", ")")
        image = f"images/figure_{headline.name.replace('-', '_')}.svg"
        lines += [f"**Found:** {headline.found(result)}", "", f"![{alt}]({image})", ""]
        lines += [
            f"**What differs:** {headline.differs}",
            "",
            provenance(headline.name, result, results, book),
        ]
    return "\n".join([*lines, ""])


def provenance(name: str, result: dict[str, Any], results: Path, book: Path) -> str:
    """One line: command, machine, date, commit, file."""
    where = Path(os.path.relpath(results / f"{name}.json", book)).as_posix()
    machine = result["gpu"] or f"{result['cores']} cores of an {result['processor']}"
    note = f"; {result['note']}" if result.get("note") else ""
    return (
        f"`python -m minivllm.bench {name}`, {result['date']}, commit {result['commit']}, {machine}, "
        f"{result['threads']} thread{'s' if result['threads'] != 1 else ''}{note} ([result]({where}))"
    )


def _chosen(names: list[str] | None) -> list[Headline]:
    known = {headline.name: headline for headline in HEADLINES}
    if unknown := [name for name in names or [] if name not in known]:
        raise SystemExit(f"--only must be among {', '.join(known)}, not {unknown[0]}")
    return [known[name] for name in names] if names else list(HEADLINES)


def _measure(name: str, path: Path) -> None:
    print(f"measuring: {name}", flush=True)
    command = [sys.executable, "-m", "minivllm.bench", name, "--json", str(path)]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"`python -m minivllm.bench {name}` did not succeed; nothing was drawn")
