"""The notebook command: two executions give the same bytes, and a check notices what has changed."""

import copy

import nbformat
import pytest

from minivllm.course.notebooks import differences, execute, normalize, read, with_recorded_measurements, write

CELLS = [
    ("markdown", "# 99 A notebook", []),
    ("code", "import random\nprint('one')\nprint('two')", ["stable"]),
    ("code", "print(random.random())", ["measure"]),
    ("code", "raise RuntimeError('there is no such GPU')", ["gpu"]),
    ("code", "from minivllm.viz.drawing import Drawing\nDrawing(9, 9, (), 'alt', 'text')", ["stable"]),
]


def make_notebook():
    notebook = nbformat.v4.new_notebook()
    for number, (kind, source, tags) in enumerate(CELLS):
        make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        notebook.cells.append(make(source, id=f"c{number}", metadata={"tags": tags} if tags else {}))
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", text="recorded on a GPU\n")]
    return notebook


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a first run."""
    folder = tmp_path_factory.mktemp("checkout") / "notebooks"
    folder.mkdir()
    return execute(make_notebook(), folder), folder


def test_two_executions_give_the_same_bytes(executed):
    first, folder = executed
    second = with_recorded_measurements(execute(first, folder), first)
    texts = []
    for number, notebook in enumerate((first, second)):
        write(notebook, folder / f"{number}.ipynb")
        texts.append((folder / f"{number}.ipynb").read_bytes())
    assert texts[0] == texts[1]
    assert list(differences(first, read(folder / "1.ipynb"))) == []


def test_what_was_run_and_what_was_kept(executed):
    notebook, _ = executed
    outputs = [cell.get("outputs") for cell in notebook.cells]
    assert [output.text for output in outputs[1]] == ["one\ntwo\n"]  # pieces of a stream are joined
    assert 0 <= float(outputs[2][0].text) < 1
    assert outputs[3][0].text == "recorded on a GPU\n"
    assert set(outputs[4][0].data) == {"image/svg+xml", "text/plain"}
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4]
    assert [cell.id for cell in notebook.cells] == ["c0", "c1", "c2", "c3", "c4"]


def test_a_check_compares_texts_of_stable_cells_and_shapes_of_measured_ones(executed):
    notebook, _ = executed
    changed = copy.deepcopy(notebook)
    changed.cells[1].outputs[0].text = "one\nthree\n"
    changed.cells[2].outputs[0].text = "another number\n"
    changed.cells[3].outputs = []
    (complaint,) = differences(notebook, changed)
    assert complaint == "cell c1 gives another text: 'two' is now 'three'"
    changed = copy.deepcopy(notebook)
    changed.cells[2].outputs = []
    (complaint,) = differences(notebook, changed)
    assert complaint.startswith("cell c2 gives other kinds of output")


def test_normalizing_takes_out_who_and_when():
    notebook = make_notebook()
    notebook.metadata["widgets"] = {"state": 1}
    notebook.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "4e2"}, "text/plain": "interactive"}
    notebook.cells[1].outputs = [nbformat.v4.new_output("display_data", data=widget)]
    notebook = normalize(notebook)
    assert notebook.cells[1].outputs == [] and notebook.cells[1].metadata == {"tags": ["stable"]}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}


def test_a_plot_has_the_same_bytes_and_a_text():
    from matplotlib.figure import Figure

    from minivllm.viz.figure import Plot

    def plot():
        figure = Figure()
        figure.subplots().plot([1, 2, 4])
        return Plot(figure, "doubles from 1 to 4 in two steps")

    assert plot().png == plot().png
    data, metadata = plot()._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "doubles from 1 to 4 in two steps"
