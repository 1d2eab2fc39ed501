"""`python -m minivllm.course notebooks`: the one command that writes the outputs of notebooks/, and checks them.

    --execute   run every cell in a fresh kernel and write the outputs, normalized: two runs give the same bytes
    --check     run every cell and compare with what is committed; writes nothing
    --lint      look at the conventions only; runs nothing (the default)
    --measure   with --execute: replace the recorded measurements, too, by those of this machine

A cell whose output everybody must get again is tagged `stable`; one that measures is tagged `measure`, compared in
shape only, and kept as it is recorded; one that needs a GPU is tagged `gpu`, and keeps its recorded output where there
is none.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minivllm.course.lint import lint

Notebook = (
    Any  # an nbformat.NotebookNode: the JSON of an .ipynb file, as dicts whose keys are attributes, too
)

TIMEOUT = 120  # seconds for one cell
WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
PICTURES = ("image/png", "image/jpeg")  # compared by being there, as renderers differ in a pixel
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `notebooks`."""
    parser.add_argument("chapters", nargs="*", metavar="NN", help="two-digit chapter numbers; default: all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--execute", action="store_true", help="run all cells and write their outputs")
    what.add_argument(
        "--check", action="store_true", help="run all cells and compare with the outputs in the file"
    )
    what.add_argument(
        "--lint", action="store_true", help="check the conventions without running anything (default)"
    )
    parser.add_argument("--measure", action="store_true", help="with --execute: also write new measurements")
    parser.add_argument("--gpu", action="store_true", help="also run the cells tagged gpu")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for each notebook. Returns 0 if all is well, 1 if there is a complaint, 3 if none is found."""
    paths = find(args.chapters)
    if not paths:
        print(f"no notebook found for {', '.join(args.chapters) or 'any chapter'} in {folder()}")
        return 3
    is_fine = True
    for path in paths:
        began = time.monotonic()
        complaints = list(_complaints(path, args))
        print(f"{path.name}: {'; '.join(complaints) or 'fine'} ({time.monotonic() - began:.1f} s)")
        is_fine = is_fine and not complaints
    return 0 if is_fine else 1


def _complaints(path: Path, args: argparse.Namespace) -> Iterator[str]:
    if not (args.execute or args.check):
        yield from lint(path, json.loads(path.read_text(encoding="utf-8")))  # without waiting for nbformat
    else:
        committed = read(path)
        fresh = execute(committed, path.parent, with_gpu=args.gpu)
        if args.check:
            yield from differences(committed, fresh)
        else:
            committed = fresh if args.measure else with_recorded_measurements(fresh, committed)
            write(committed, path)
        yield from lint(path, committed)


def folder() -> Path:
    """Find notebooks/, in the nearest parent of the working directory that has one, or beside the package."""
    here = Path.cwd()
    for parent in (here, *here.parents, *Path(__file__).resolve().parents):
        if (parent / "notebooks").is_dir():
            return parent / "notebooks"
    raise FileNotFoundError("there is no folder named notebooks here: run this inside a checkout of minivllm")


def find(chapters: Sequence[str] = ()) -> list[Path]:
    """The notebooks of these chapters, in order; of all, if none is named."""
    wanted = {chapter.zfill(2) for chapter in chapters}
    return [
        path for path in sorted(folder().glob("[0-9][0-9]_*.ipynb")) if not wanted or path.name[:2] in wanted
    ]


def read(path: Path) -> Notebook:
    """Read a notebook as nbformat 4.5."""
    import nbformat

    return nbformat.read(path, as_version=4)


def write(notebook: Notebook, path: Path) -> None:
    """Write a notebook the way JupyterLab lays it out, so that saving it there changes nothing."""
    import nbformat

    nbformat.write(nbformat.from_dict(notebook), path)


# -- execute --------------------------------------------------------------------------------------------------------


def execute(notebook: Notebook, where: Path, with_gpu: bool = False) -> Notebook:
    """Run all cells in a fresh kernel that starts in `where`; returns a normalized copy.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the message shows it.
    """
    from nbclient import NotebookClient

    notebook = copy.deepcopy(notebook)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        startup_timeout=TIMEOUT,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no word about the loopback connection
        kernel_name="python3",
        resources={"metadata": {"path": str(where)}},
        skip_cells_with_tag="" if with_gpu else "gpu",
        store_widget_state=False,
        record_timing=False,
    )
    client.execute(env=_environment(where.parent))
    return normalize(notebook)


def _environment(root: Path) -> dict[str, str]:
    """The same for everybody: one thread, no network, this checkout, and no colours in tracebacks."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "TOKENIZERS_PARALLELISM": "false",
    }


def normalize(notebook: Notebook) -> Notebook:
    """Take out what differs from run to run: times, widgets, random ids, who ran it. Changes `notebook` itself."""
    import nbformat

    notebook["metadata"] = nbformat.from_dict(METADATA)
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    count = 0
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        cell["metadata"] = nbformat.from_dict({"tags": tags} if tags else {})
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"] = count
        cell["outputs"] = [output for output in _joined(cell["outputs"]) if not _is_widget(output)]
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count
    return notebook


def with_recorded_measurements(fresh: Notebook, committed: Notebook) -> Notebook:
    """Put back what `measure` cells had recorded, where it is of the same kind. Changes `fresh` itself."""
    for old, new in zip(committed["cells"], fresh["cells"], strict=True):
        if "measure" in new["metadata"].get("tags", []) and _shape(old) == _shape(new):
            new["outputs"] = old["outputs"]
    return fresh


def _joined(outputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A stream's text arrives in pieces, as luck will have it: one piece per stream and place."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _is_widget(output: dict[str, Any]) -> bool:
    return any(kind in output.get("data", {}) for kind in WIDGETS)


# -- check ----------------------------------------------------------------------------------------------------------


def differences(committed: Notebook, fresh: Notebook) -> Iterator[str]:
    """One sentence for each cell whose new output is not what the file says."""
    for old, new in zip(committed["cells"], fresh["cells"], strict=True):
        tags = old["metadata"].get("tags", [])
        if old["cell_type"] != "code" or "gpu" in tags:
            continue
        if _shape(old) != _shape(new):
            yield f"cell {old['id']} gives other kinds of output than the file: {_shape(old)} there, {_shape(new)} now"
        elif "measure" not in tags and _texts(old) != _texts(new):
            yield f"cell {old['id']} gives another text: {_first_difference(_texts(old), _texts(new))}"


def _shape(cell: dict[str, Any]) -> list[str]:
    return [
        f"{output['output_type']} {' '.join(sorted(output.get('data', {})))}{output.get('name', '')}"
        for output in cell["outputs"]
    ]


def _texts(cell: dict[str, Any]) -> list[str]:
    texts = []
    for output in cell["outputs"]:
        texts.append(str(output.get("text", "")))
        texts += [
            str(value) for kind, value in sorted(output.get("data", {}).items()) if kind not in PICTURES
        ]
    return texts


def _first_difference(old: Sequence[str], new: Sequence[str]) -> str:
    pairs = zip("\n".join(old).splitlines(), "\n".join(new).splitlines(), strict=False)
    line = next(((a, b) for a, b in pairs if a != b), ("", "a different number of lines"))
    return " is now ".join(re.sub(r"(.{120}).*", r"\1...", repr(part)) for part in line)


def main(arguments: list[str]) -> int:
    """Run with these arguments, as a command of `python -m minivllm.course` or as a module of its own."""
    parser = argparse.ArgumentParser(
        prog="python -m minivllm.course notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
