"""Cutting: the solution is the reference's own text, the stub is the same without the bodies."""

import ast
from pathlib import Path

import pytest

from minivllm.course.catalogue import CourseError, read_course
from minivllm.course.cut import mutate, read_reference, solution_text, stub_text
from minivllm.course.learner import load

COURSE = read_course(Path(__file__).resolve().parents[2])
EXERCISES = pytest.mark.parametrize("exercise", COURSE.exercises, ids=lambda exercise: exercise.id)


def definitions(text):
    """Name -> node of every function, class and method, `Class.method`."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{m.name}": m for m in node.body if isinstance(m, ast.FunctionDef)}
    return found


@EXERCISES
def test_the_solution_is_the_references_text(exercise):
    reference = read_reference(exercise.reference)
    whole, cut = "\n".join(reference.lines), solution_text(exercise)
    for name in exercise.names:
        (node,) = [definitions(cut).get(name) or reference.definitions[name]]
        lines = cut.splitlines()[node.lineno - 1 : node.end_lineno] if name in definitions(cut) else []
        assert "\n".join(lines) in whole


@EXERCISES
def test_the_stub_keeps_signatures_and_docstrings_and_has_no_body(exercise):
    stub, solution = definitions(stub_text(COURSE, exercise)), definitions(solution_text(exercise))
    assert set(stub) == set(solution)
    for name, node in stub.items():
        if isinstance(node, ast.FunctionDef):
            assert ast.unparse(node.args) == ast.unparse(solution[name].args)
            assert ast.get_docstring(node) == ast.get_docstring(solution[name])
    for name in exercise.blank:
        raised = stub[name].body[-1]
        assert isinstance(raised, ast.Raise) and f"exercise {exercise.id}: {name}" in ast.unparse(raised)
        assert len(stub[name].body) == 1 + (ast.get_docstring(stub[name]) is not None)


def test_comments_survive_the_cut():
    text = stub_text(COURSE, COURSE.exercise("5.2"))
    assert "# One sentinel closes the list into a ring" in text


def test_what_the_reference_defines_itself_is_imported_from_it():
    text = solution_text(COURSE.exercise("5.3"))
    assert "from minivllm.core.block_pool import NULL_BLOCK_ID, FreeBlockQueue\n" in text
    assert "Iterator" not in text  # only what is used


def test_a_mutant_has_to_fit_the_text_once():
    exercise = COURSE.exercise("5.3")
    mutant = exercise.mutants[0]
    with pytest.raises(CourseError, match="mutant leak: old must occur once in the solution, not 0 times"):
        mutate(exercise, "nothing", mutant)


@EXERCISES
def test_every_mutant_is_python(exercise):
    for mutant in exercise.mutants:
        compile(mutate(exercise, solution_text(exercise), mutant), mutant.name, "exec")


def test_a_wrong_name_gets_a_sentence(tiny):
    path = tiny.root / "exercises" / "course" / "ch05_tiny.toml"
    text = path.read_text(encoding="utf-8")
    for old, new, sentence in (
        ('names = ["cdiv"]', 'names = ["floor"]', "minivllm.core.block_table defines no floor"),
        ('names = ["cdiv"]', 'names = ["cdiv"]\nblank = ["floor"]', "blank names floor"),
    ):
        path.write_text(text.replace(old, new), encoding="utf-8")
        course = read_course(tiny.root)
        with pytest.raises(CourseError, match=sentence):
            stub_text(course, course.exercise("5.1"))


def test_earlier_work_stands_in_for_the_packages(tiny):
    mine = load("5.2", "solutions+alternative", course=tiny)
    assert mine.cdiv.__code__.co_filename.endswith("alternatives/ch05_tiny/round_up.py")
    assert load("5.2", "solutions", course=tiny).cdiv.__module__ == "minivllm.core.block_table"


def test_the_learners_earlier_work_stands_in_only_when_it_is_green(tiny, solved):
    from minivllm.course.state import record_check

    solved("5.1")
    solved("5.2")
    assert load("5.2", "learner+learner", course=tiny).cdiv.__module__ == "minivllm.core.block_table"
    record_check(tiny, tiny.exercise("5.1"), "green", ["smoke"])
    found = load("5.2", "learner+learner", course=tiny).cdiv
    assert found.__code__.co_filename.endswith("exercises/ch05_tiny/round_up.py")


def test_an_unknown_implementation_gets_a_sentence(tiny):
    with pytest.raises(CourseError, match="an implementation is learner, solutions"):
        load("5.1", "friend", course=tiny)
    with pytest.raises(CourseError, match="no mutant 'x'; it has: rounds-down"):
        load("5.1", "mutant:x", course=tiny)
