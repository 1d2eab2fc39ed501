"""pytest on a learner's path: mapped to the grader, reported in the course's words, with its exit codes."""

import json
import subprocess
import sys

LEARNER = "exercises/ch05_tiny/round_up.py"


def test_untouched_files_are_not_started(run_pytest):
    code, said = run_pytest("exercises/ch05_tiny")
    assert code == 2
    assert said.count("not started") == 2 and "FAILED" not in said


def test_the_report_is_in_the_order_of_the_course(run_pytest, tiny):
    grader = tiny.root / "tests" / "exercises" / "test_ch05_tiny.py"
    begin = '@pytest.mark.exercise("5.2", "smoke")'
    head, *tests = grader.read_text(encoding="utf-8").partition('@pytest.mark.exercise("5.1", "smoke")')
    first, _, second = "".join(tests).partition(begin)
    grader.write_text(head + begin + second + "\n\n" + first, encoding="utf-8")
    _, said = run_pytest("exercises/ch05_tiny")
    assert 0 < said.index("  5.1 ") < said.index("  5.2 ")


def test_a_correct_file_is_green_and_is_remembered(run_pytest, solved, tiny):
    solved("5.1")
    code, said = run_pytest(LEARNER)
    assert code == 0 and "green" in said and "5.2" not in said
    state = json.loads((tiny.root / "exercises" / ".course" / "state.json").read_text(encoding="utf-8"))
    (check,) = state["exercises"]["5.1"]["checks"].values()
    assert check == {"outcome": "green", "tiers": ["smoke", "examples", "properties"]}


def test_a_wrong_file_is_red_with_law_program_picture_reason_and_hint(run_pytest, solved, tiny):
    solved("5.1", "-(-numerator // denominator)", "numerator // denominator")
    code, said = run_pytest("exercises")
    assert code == 1
    for part in (
        "RED         in examples",
        "The law: The quotient is rounded up.",
        "quotient is 3, and should be 4.",
        '    mine = load("5.1")\n    cdiv = mine.cdiv\n    quotient = cdiv(7, 2)\n    assert quotient == 4\n',
        "    [][] [][] [][] []",
        "Often behind it: // rounds down.",
        "A hint:     python -m minivllm.course hint 5.1",
    ):
        assert part in said
    assert "Traceback" not in said
    program = tiny.root / "exercises" / ".course" / "failed_5_1.py"
    done = subprocess.run(
        [sys.executable, program], cwd=tiny.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "AssertionError" in done.stderr


def test_verbose_adds_pictures_and_the_traceback(run_pytest, solved):
    solved("5.1", "-(-numerator // denominator)", "numerator // denominator")
    _, said = run_pytest("-v", LEARNER)
    assert "4 / 2 is 2" in said and "test_ch05_tiny.py" in said


def test_a_loop_that_never_ends_is_red(run_pytest, solved):
    solved("5.1", "    return", "    while True:\n        pass\n    return")
    code, said = run_pytest(LEARNER)
    assert code == 1 and "a loop that never ends?" in " ".join(said.split())
    assert "    assert cdiv(4, 2) == 2\n" in said  # the check that did not come back is part of the program


def test_a_grader_that_cannot_run_is_the_environments_fault(run_pytest, solved, tiny):
    solved("5.1")
    tiny.grader_file(tiny.chapter(5)).write_text("import nothing_here", encoding="utf-8")
    code, said = run_pytest(LEARNER)
    assert code == 3 and "nothing_here" in said


def test_elsewhere_the_solutions_are_graded_with_pytests_own_report(run_pytest):
    code, said = run_pytest("tests/exercises", "-q")
    assert code == 0 and "6 passed" in said


def test_a_test_that_the_course_wrote_is_an_ordinary_test(run_pytest, tiny):
    folder = tiny.root / "exercises" / ".course"
    folder.mkdir(exist_ok=True)
    (folder / "test_shadow.py").write_text("def test_it(): assert 1 == 2", encoding="utf-8")
    code, said = run_pytest("exercises/.course/test_shadow.py")
    assert code == 1 and "1 failed" in said and "assert 1 == 2" in said


def test_a_broken_course_is_only_told_to_whoever_grades(run_pytest, tiny):
    (tiny.root / "exercises" / "course.toml").write_text("[[", encoding="utf-8")
    (tiny.root / "tests" / "test_other.py").write_text("def test_other(): pass", encoding="utf-8")
    assert run_pytest("tests/test_other.py")[0] == 0
    code, said = run_pytest("tests/exercises")
    assert code != 0 and "course.toml cannot be read" in said
