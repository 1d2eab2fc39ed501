"""The commands, in this process: what they print, what they keep, how they end."""

import dataclasses
import json
import shutil

import pytest

from minivllm.course import cli
from minivllm.course.cli import main
from minivllm.course.points import as_table, points
from minivllm.course.state import read_progress, read_state, record_check
from minivllm.course.time_limit import on_this_machine

RUN = (0, 1, 2, 3)


def said(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_status_next_and_report_of_a_beginner(tiny, capsys):
    code, text = said(capsys, "status")
    assert code == 2 and text.count("not started") == 2 and "Next: 5.1 Round up" in text
    assert max(map(len, text.splitlines())) <= 80
    code, text = said(capsys, "next")
    assert code == 2 and "Divide, and round up." in text and "exercises/ch05_tiny/round_up.py" in text
    code, text = said(capsys, "report")
    assert code == 2 and "| 5.1 | Round up | not started |" in text and "0 of 2" in text


def test_status_as_json(tiny, capsys, solved):
    solved("5.1")
    record_check(tiny, tiny.exercise("5.1"), "green", ["smoke", "examples"])
    code, text = said(capsys, "status", "--json")
    first, second = json.loads(text)
    assert code == 2
    assert (first["id"], first["outcome"], first["passed_tiers"]) == ("5.1", "green", ["smoke", "examples"])
    assert (second["outcome"], second["parts"]) == ("not started", ["shared_blocks"])


def test_a_result_belongs_to_the_file_as_it_was(tiny, solved):
    exercise = tiny.exercise("5.1")
    solved("5.1")
    record_check(tiny, exercise, "green", ["smoke"])
    path = tiny.learner_file(exercise)
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "# thought\n", encoding="utf-8")
    assert read_state(tiny, exercise).outcome == "unchecked"
    path.write_text(text, encoding="utf-8")
    assert read_state(tiny, exercise).outcome == "green"
    path.unlink()
    assert read_state(tiny, exercise).outcome == "missing"


def test_a_damaged_state_file_is_no_disaster(tiny, capsys):
    (tiny.root / "exercises" / ".course").mkdir()
    (tiny.root / "exercises" / ".course" / "state.json").write_text("{", encoding="utf-8")
    assert said(capsys, "status")[0] == 2


def test_what_needs_work_comes_before_what_was_not_begun(tiny, capsys, solved):
    solved("5.2")
    record_check(tiny, tiny.exercise("5.2"), "red", [])
    code, text = said(capsys, "next")
    assert code == 1 and text.startswith("5.2 Sharing")
    assert said(capsys, "next", "5.1")[1].startswith("5.1 Round up")
    code, text = said(capsys, "next", "6")
    assert code == 3 and "6" in text


def test_all_green(tiny, capsys, solved):
    for exercise in tiny.exercises:
        solved(exercise.id)
        record_check(tiny, exercise, "green", ["smoke"])
    assert said(capsys, "status")[0] == 0
    assert said(capsys, "next") == (0, "All exercises are green.\n")
    assert said(capsys, "next", "5") == (0, "All exercises of 5 are green.\n")


def test_hints_come_one_after_the_other(tiny, capsys):
    texts = [said(capsys, "hint", "5.1")[1] for _ in range(4)]
    assert "Think of 7 / 2." in texts[0] and "invariant" in texts[1] and "-(-a // b)" in texts[2]
    assert texts[2] == texts[3]
    assert "Think of 7" in said(capsys, "hint", "5.1", "1")[1]
    assert read_progress(tiny).exercises["5.1"]["hints"] == 3


def test_solution_and_diff_are_remembered(tiny, capsys):
    assert "-(-numerator // denominator)" in said(capsys, "solution", "5.1")[1]
    text = said(capsys, "diff", "5.2")[1]
    assert "-    return [index" in text and "ref_cnt > 0]" in text and "ref_cnt > 1]" in text
    assert read_state(tiny, tiny.exercise("5.2")).saw_solution


def test_reset_keeps_every_earlier_file(tiny, capsys, solved):
    assert "the stub already" in said(capsys, "reset", "5.1")[1]
    path = tiny.learner_file(tiny.exercise("5.1"))
    for number in (1, 2):
        path.write_text(f"# try {number}\n", encoding="utf-8")
        assert said(capsys, "reset", "5.1")[0] == 0
    kept = {p.name: p.read_text(encoding="utf-8") for p in path.parent.glob("*.bak")}
    assert kept == {"round_up.py.bak": "# try 1\n", "round_up.py.2.bak": "# try 2\n"}
    assert read_state(tiny, tiny.exercise("5.1")).outcome == "not started"
    path.unlink()
    said(capsys, "reset", "5.1")
    assert path.exists()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["hint", "9.9"], "no exercise 9.9"),
        (["check", "x"], "neither a chapter"),
        (["dance"], "no command 'dance'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_3(tiny, capsys, arguments, sentence):
    code, text = said(capsys, *arguments)
    assert code == 3 and sentence in text


def test_outside_a_checkout_it_says_where_to_go(tiny, capsys, monkeypatch):
    monkeypatch.chdir(tiny.root.parent)
    code, text = said(capsys, "status")
    assert code == 3 and "go to your checkout of minivllm" in text


def test_check_grades_in_a_process_of_its_own(tiny, capfd, solved):
    solved("5.1")
    assert main(["check", "5.1"]) == 0
    assert read_state(tiny, tiny.exercise("5.1")).outcome == "green"
    assert "green" in capfd.readouterr().out


def test_check_as_json_gives_points_and_nothing_else_on_stdout(tiny, capfd, solved):
    solved("5.1")
    solved("5.2", "ref_cnt > 1", "ref_cnt > 0")
    tiny.learner_file(tiny.exercise("5.2")).open("a").write("# looked at\n")
    capfd.readouterr()
    assert main(["check", "5", "--json"]) == 1
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert (found["points"], found["out_of"]) == (1, 2)
    first, second = found["exercises"]
    assert first["outcome"] == "green" and first["points"] == 1 and first["law"] is None
    assert second["outcome"] == "red" and second["points"] == 0
    assert second["law"] == "A block with one reference is nobody else's."
    assert "Chapter 5" in printed.err


def test_points_are_minutes_and_half_of_them_past_the_examples(tiny):
    exercise = dataclasses.replace(tiny.exercise("5.1"), minutes=25)
    given = {
        ("green", "smoke examples properties"): 25,
        ("red", "smoke examples"): 12,
        ("red", "smoke"): 0,
        ("not started", ""): 0,
    }
    for (outcome, tiers), expected in given.items():
        assert points(exercise, outcome, tiers.split()) == expected
    row = {"exercise": "5.1", "outcome": "cannot run", "tiers": [], "law": None, "finding": ""}
    assert as_table([exercise], [row])["out_of"] == 0
    (lost,) = as_table([exercise], [])["exercises"]
    assert lost["outcome"] == "red" and lost["out_of"] == 25 and "its end" in lost["finding"]


def test_code_that_ends_the_process_gets_no_points(tiny, capfd, solved):
    solved("5.1", "    return", "    import os\n\n    os._exit(0)\n    return")
    capfd.readouterr()
    assert main(["check", "5.1", "--json"]) == 1
    (row,) = json.loads(capfd.readouterr().out)["exercises"]
    assert row["outcome"] == "red" and row["points"] == 0


@pytest.mark.parametrize(("load", "seconds"), [(0.5, 240), (2.0, 240), (8.0, 960)])
def test_a_limit_in_real_time_is_longer_on_a_busy_machine(monkeypatch, load, seconds):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert on_this_machine(240) == seconds


def test_check_does_without_the_solutions(tiny, capfd, solved):
    solved("5.1")
    shutil.rmtree(tiny.root / "solutions")
    assert main(["check", "5.1", "--json"]) == 0 and main(["hint", "5.1"]) == 0 and main(["status"]) in RUN


def test_check_as_json_of_what_cannot_be_graded_prints_nothing(tiny, capfd):
    (tiny.root / "tests" / "exercises" / "test_ch05_tiny.py").unlink()
    capfd.readouterr()
    assert main(["check", "5.1", "--json"]) == 3
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err


def test_doctor_is_well_here_and_names_what_is_missing(tiny, capsys, monkeypatch):
    assert said(capsys, "doctor")[0] == 0
    tiny.solution_file(tiny.exercise("5.1")).unlink()
    code, text = said(capsys, "doctor")
    assert code == 3 and "round_up.py is missing" in text


def test_every_command_leads_somewhere():
    import importlib

    for where, _ in cli.COMMANDS.values():
        module, function = where.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_no_colour_without_a_terminal(tiny, capsys):
    assert "\033" not in said(capsys, "status")[1]


def test_colour_in_a_terminal_unless_it_is_unwanted(monkeypatch):
    from minivllm.course import terminal

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.paint("x", "green") == "\033[32mx\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint("x", "green") == "x"
