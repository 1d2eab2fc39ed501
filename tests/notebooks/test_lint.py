"""The linter: the committed notebooks keep the conventions, and each convention can be broken and is then named."""

import copy
import json
from pathlib import Path

import pytest

from minivllm.course.catalogue import read_course
from minivllm.course.glossary import page, terms
from minivllm.course.lint import PARTS, lint

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GOOD = ROOT / "notebooks" / "04_block_table.ipynb"


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebooks_keep_the_conventions(path):
    assert list(lint(path, load(path))) == []


def cell_of(notebook, cell_id):
    return next(cell for cell in notebook["cells"] if cell["id"] == cell_id)


def source(cell):
    return "".join(cell["source"])


def in_cell(cell_id, old, new):
    """A change of the text of one cell."""

    def change(notebook):
        cell = cell_of(notebook, cell_id)
        assert old in source(cell)
        cell["source"] = source(cell).replace(old, new)

    return change


def with_output(**output):
    """An output more in the cell that prints the prediction."""

    def change(notebook):
        cell_of(notebook, "prediction-check")["outputs"].append(output)

    return change


def retag(notebook):
    cell_of(notebook, "prediction-check")["metadata"] = {}


def same_ids(notebook):
    notebook["cells"][1]["id"] = notebook["cells"][0]["id"]


def older(notebook):
    notebook["nbformat_minor"] = 4


def grow(notebook):
    cell_of(notebook, "prediction-check")["outputs"][0]["text"] = "x" * 300_000


SVG = {
    "image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>",
    "text/plain": "a picture of nothing at all",
}
PICTURE = {"output_type": "display_data", "metadata": {}}

BROKEN = [
    (in_cell("title", "# 04 ", "# 05 "), "must begin with the title"),
    (in_cell("title", "**Goals**", "Goals"), "two to six goals"),
    (in_cell("prove", "## 6. Prove", "## 6. Proof"), "the headings must be"),
    (in_cell("recall", "<details><summary>3.", "<details><b>3."), "questions with folded answers"),
    (in_cell("recall", "16 times fewer with block size 16.", "![](../README.md)"), "needs a text"),
    (in_cell("picture", "glossary.md#slot)", "glossary.md#slots)"), "no term 'slots'"),
    (in_cell("picture", "[slot](../book/glossary.md#slot)", "slot"), "'slot' belongs to this chapter"),
    (in_cell("compare", "[vLLM](../book/glossary.md#vllm)", "vLLM"), "uses 'vLLM' for the first time"),
    (in_cell("question", "16 tokens", "[16](../nowhere.md) tokens"), "leads nowhere"),
    (in_cell("prediction", "my_prediction", "\n" * 25 + "my_prediction"), "more than 25"),
    (in_cell("prediction", "None", "None" + " " * 110), "more than 110 characters"),
    (in_cell("prediction", "my_prediction", "!pip install x\nmy_prediction"), "installs something"),
    (in_cell("prediction", source(cell_of(load(GOOD), "prediction")), " "), "is empty"),
    (retag, "needs one of the tags"),
    (same_ids, "an id of its own"),
    (older, "nbformat 4.5"),
    (grow, "draw fewer frames"),
    (with_output(output_type="error", ename="KeyError", evalue="", traceback=[]), "raises KeyError"),
    (with_output(output_type="stream", name="stderr", text="a warning"), "writes to stderr"),
    (with_output(output_type="stream", name="stdout", text="<x at 0x7f00aa11>"), "only this machine has"),
    (with_output(**PICTURE, data=SVG), "without a title"),
    (with_output(**PICTURE, data={"image/png": "x", "text/plain": "<Figure size>"}), "without a description"),
    (with_output(**PICTURE, data={"text/html": "<script src='https://a.b'></script>"}), "from the network"),
    (with_output(**PICTURE, data={"text/html": "<img src='data:,'>"}), "without alt text"),
]


@pytest.mark.parametrize(("change", "sentence"), BROKEN, ids=[sentence for _, sentence in BROKEN])
def test_a_broken_convention_is_named(change, sentence):
    notebook = copy.deepcopy(load(GOOD))
    change(notebook)
    assert any(sentence in complaint for complaint in lint(GOOD, notebook)), list(lint(GOOD, notebook))


def test_the_name_of_the_file_is_a_convention():
    path = GOOD.with_name("04_Block Table.ipynb")
    assert any("NN_name.ipynb" in complaint for complaint in lint(path, load(GOOD)))


def test_there_are_eight_parts():
    assert len(PARTS) == 8


def test_the_glossary_page_is_the_toml_and_its_headings_are_the_anchors():
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    assert text == page(read_course(ROOT)), (
        "book/glossary.md is not what minivllm.course.glossary.page() says"
    )
    assert text.count("\n## ") == len(terms())
