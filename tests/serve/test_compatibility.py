"""book/compatibility.md is what the program says today, and every test that it names exists."""

from pathlib import Path

import pytest

from minivllm.serve import compatibility
from minivllm.serve.answers import Answers
from minivllm.serve.compatibility import main, missing_tests, read_rows, render

ROOT = Path(__file__).resolve().parents[2]
ROWS = read_rows()


@pytest.fixture(scope="module")
def answers():
    return Answers()


def test_every_row_is_there_and_names_tests_that_exist():
    assert len(ROWS) == 83 and all(row["feature"] and row["here"] and row["tests"] for row in ROWS)
    assert missing_tests(ROWS, ROOT) == []
    assert missing_tests([{"tests": ["serve/test_api.py::test_x", "no.py::test_y"]}], ROOT) == [
        "serve/test_api.py::test_x",
        "no.py::test_y",
    ]


@pytest.mark.parametrize(
    "probe", [probe for row in ROWS for probe in row.get("refused", ())], ids=lambda probe: str(probe)[:60]
)
def test_what_is_refused_is_refused(answers, probe):
    sentence = answers.sentence(probe)
    assert 10 < len(sentence) < 500 and "\n" not in sentence and "Traceback" not in sentence
    assert (
        "not served" in sentence
        or any(
            word in sentence
            for word in ("must", "no effect", "not exist", "no route", "cannot", "supported", "neither")
        )
        or "invalid choice" in sentence
        or "part of type" in sentence
    )


def test_the_page_is_what_the_program_says(answers):
    assert (ROOT / compatibility.PAGE).read_text(encoding="utf-8") == render(ROWS, answers), (
        "out of date: run python -m minivllm.serve.compatibility"
    )


def test_something_that_is_served_is_no_refusal(answers):
    for probe in ({"flags": ["--port", "9000"]}, {"llm": {"seed": 3}}, {"prompt": "Once"}):
        with pytest.raises(AssertionError, match="is served"):
            answers.sentence(probe)


def test_check_tells_a_page_that_is_out_of_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compatibility, "read_rows", lambda: [{**ROWS[0], "tests": []}])
    (tmp_path / "book").mkdir()
    arguments = ["--root", str(tmp_path)]
    assert main([*arguments, "--check"]) == 1 and "out of date" in capsys.readouterr().err
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    page = tmp_path / compatibility.PAGE
    page.write_text(page.read_text() + "x")
    assert main([*arguments, "--check"]) == 1
    monkeypatch.setattr(compatibility, "read_rows", lambda: [{**ROWS[0], "tests": ["a.py::test_b"]}])
    assert main(arguments) == 1 and "a.py::test_b" in capsys.readouterr().err
