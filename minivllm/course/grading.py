"""What a grader is written with: an implementation to grade, a history that is also a program, and a broken law.

A grader never asserts on its own. It runs the learner's code line by line in a `History`, and checks expressions there;
when one does not hold, the lines so far and the failed check are a program that shows the failure by itself.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NoReturn

from minivllm.course.catalogue import Course, Exercise
from minivllm.course.learner import load, source_path
from minivllm.course.state import read_state

LOADS = "The file can be loaded."
RUNS = "Every call that the exercise allows comes back without an error."


class NotStarted(Exception):
    """The exercise's code still raises its NotImplementedError."""


class LawBroken(AssertionError):
    """A grader's finding.

    Args:
        sentence: the law, in one sentence.
        finding: what was expected and what came.
        program: lines that show it when they are run.
        picture: expected and found, drawn with characters.
        law: the law's key in the chapter's toml file; None for the two laws that hold everywhere.
    """

    def __init__(
        self,
        sentence: str,
        finding: str,
        program: Sequence[str] = (),
        picture: str = "",
        law: str | None = None,
    ) -> None:
        super().__init__(f"{sentence} {finding}")
        self.sentence = sentence
        self.finding = finding
        self.program = list(program)
        self.picture = picture
        self.law = law


class Implementation:
    """The code under grading. Its functions and classes are attributes; the file is loaded at the first use.

    Args:
        course: where the exercise stands.
        exercise: the exercise.
        label: an implementation as `learner.load` knows it; "solutions+alternative" is the solution that builds on
            the alternatives of the exercises that it needs.
    """

    def __init__(self, course: Course, exercise: Exercise, label: str) -> None:
        self.course = course
        self.exercise = exercise
        self.label = label
        self.history_in_progress: History | None = None  # for whoever interrupts a loop that never ends
        self._module: types.ModuleType | None = None

    def __repr__(self) -> str:
        return f"<{self.label} of exercise {self.exercise.id}>"

    def __getattr__(self, name: str) -> Any:
        if name not in self.exercise.names:
            raise AttributeError(
                f"{self!r} has no {name}; its toml file names {', '.join(self.exercise.names)}"
            )
        if not hasattr(self.module, name):
            raise LawBroken(LOADS, f"The file defines no {name}.")
        return getattr(self.module, name)

    @property
    def module(self) -> types.ModuleType:
        """The loaded module.

        Raises:
            NotStarted: the learner has not edited the file.
            LawBroken: it cannot be loaded.
        """
        if self._module is None:
            if self.label == "learner" and read_state(self.course, self.exercise).outcome == "not started":
                raise NotStarted(f"exercise {self.exercise.id}")
            try:
                self._module = load(self.exercise.id, self.label, course=self.course)
            except (SyntaxError, ImportError, NameError, TypeError, ValueError, AttributeError) as error:
                raise LawBroken(LOADS, self.describe(error)) from error
        return self._module

    def describe(self, error: BaseException) -> str:
        """One line: the error, and the last line of this implementation's file that it came through."""
        path = source_path(self.course, self.exercise, self.label)
        line = error.lineno if isinstance(error, SyntaxError) else None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(path):
                line = trace.tb_lineno
            trace = trace.tb_next
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        return f"{type(error).__name__}: {said}" + (f" ({path.name}, line {line})" if line else "")

    def variant(self, exercise_id: str, label: str) -> Implementation:
        """An implementation of another exercise, such as a mutant that the learner's own test has to catch."""
        return Implementation(self.course, self.course.exercise(exercise_id), label)

    def history(self, *names: str, imports: Sequence[str] = ()) -> History:
        """A new history in which `names` come from this implementation, and `imports` are run first."""
        return History(self, names, imports)


class History:
    """A program that grows while it runs."""

    def __init__(
        self, implementation: Implementation, names: Sequence[str], imports: Sequence[str] = ()
    ) -> None:
        self.implementation = implementation
        self.namespace: dict[str, Any] = {name: getattr(implementation, name) for name in names}
        self.namespace["load"] = partial(load, course=implementation.course)
        which = f'"{implementation.exercise.id}"'
        if implementation.label != "learner":
            which += f', "{implementation.label}"'
        self.program = [*imports, "from minivllm.course.learner import load", "", f"mine = load({which})"]
        self.program += [f"{name} = mine.{name}" for name in names]
        for line in imports:
            exec(_compiled(line, "exec"), self.namespace)
        self.is_running = False
        self.lines_running: list[str] = []  # beyond the program: a check that has not come back
        implementation.history_in_progress = self

    def run(self, line: str) -> None:
        """Run a statement and keep it.

        Raises:
            LawBroken: it raised something.
        """
        self.program.append(line)
        self._guarded(lambda: exec(_compiled(line, "exec"), self.namespace))

    def value(self, expression: str) -> Any:
        """The value of an expression, which does not become part of the program."""
        return eval(_compiled(expression, "eval"), self.namespace)

    def check(self, expression: str, law: str, picture: str | Callable[[], str] = "") -> None:
        """Demand that an expression holds; write equalities as `found == expected`.

        Args:
            expression: evaluated here; becomes part of the program only when it does not hold.
            law: a key of the exercise's laws in the chapter's toml file.
            picture: text, or a function that draws it when it is needed.

        Raises:
            LawBroken: it does not hold, or raised something.
        """
        if self._guarded(lambda: self.value(expression), f"assert {expression}"):
            return
        self.fail(law, self._finding(expression), [f"assert {expression}"], picture)

    def refuses(self, line: str, law: str, picture: str | Callable[[], str] = "") -> None:
        """Demand that a statement raises an AssertionError, as the package's do when a caller breaks a contract."""
        try:
            refused = self.is_refused(line)
        except LawBroken as broken:
            if broken.law is not None or broken.__cause__ is None:
                raise
            told = f"{line} should be refused with an AssertionError, and ended with {broken.finding}"
            self.fail(law, told, [line], picture)
        if not refused:
            lines = [*_expecting_refusal(line), "else:", "    raise SystemExit('accepted')"]
            self.fail(law, f"{line} was accepted.", lines, picture)
        self.program += _expecting_refusal(line)

    def is_refused(self, line: str) -> bool:
        """Run a statement, without keeping it: does it raise an AssertionError?

        Raises:
            LawBroken: it raised something else.
        """
        try:
            self._guarded(lambda: self._refused(line), line)
        except _RefusedError:
            return True
        return False

    def _refused(self, line: str) -> None:
        try:
            exec(_compiled(line, "exec"), self.namespace)
        except AssertionError as error:
            raise _RefusedError from error

    def fail(
        self, law: str, finding: str, lines: Sequence[str] = (), picture: str | Callable[[], str] = ""
    ) -> NoReturn:
        """Raise LawBroken with the program so far and `lines`."""
        drawn = picture if isinstance(picture, str) else picture()
        sentence = self.implementation.exercise.laws[law]
        raise LawBroken(sentence, finding, [*self.program, *lines], drawn, law)

    def _guarded(self, action: Callable[[], Any], line: str | None = None) -> Any:
        self.is_running, self.lines_running = True, [line] if line else []
        try:
            result = action()
            self.lines_running = []
            return result
        except (LawBroken, NotStarted, _RefusedError):
            raise
        except Exception as error:
            raise self._translated(error, [line] if line else []) from error
        finally:
            self.is_running = False

    def _translated(self, error: Exception, lines: list[str]) -> Exception:
        exercise = self.implementation.exercise
        if is_stub_error(error, exercise):
            return NotStarted(str(error))
        return LawBroken(RUNS, self.implementation.describe(error), [*self.program, *lines])

    def _finding(self, expression: str) -> str:
        tree = ast.parse(expression, mode="eval").body
        if isinstance(tree, ast.Compare) and isinstance(tree.ops[0], ast.Eq) and len(tree.ops) == 1:
            found, expected = (self.value(ast.unparse(side)) for side in (tree.left, tree.comparators[0]))
            return f"{ast.unparse(tree.left)} is {found!r}, and should be {expected!r}."
        return f"{expression} does not hold."


class _RefusedError(Exception):
    """A statement raised the AssertionError that it was to raise."""


def _expecting_refusal(line: str) -> list[str]:
    return ["try:", f"    {line}", "except AssertionError:", "    pass  # refused, as it should be"]


@lru_cache(maxsize=4096)
def _compiled(text: str, mode: str) -> types.CodeType:
    return compile(text, "<history>", mode)


def is_stub_error(error: BaseException, exercise: Exercise) -> bool:
    """Did the code stop at a body that is still to be written? Triton's interpreter wraps what a kernel raises."""
    return any(
        isinstance(raised, NotImplementedError) and str(raised).startswith(f"exercise {exercise.id}")
        for raised in (error, error.__cause__)
    )


def compare(rows: dict[str, Sequence[object]], expected: str = "expected", yours: str = "yours") -> str:
    """A table of characters, one column an item; a ^ stands below each column where `expected` and `yours` differ."""
    length = max(len(row) for row in rows.values())
    cells = {name: [str(item) for item in row] + [""] * (length - len(row)) for name, row in rows.items()}
    widths = [max(len(row[i]) for row in cells.values()) for i in range(length)]
    title = max(len(name) for name in cells) + 2
    lines = [name.ljust(title) + " ".join(map(str.rjust, row, widths)) for name, row in cells.items()]
    marks = ["^" if a != b else "" for a, b in zip(cells[expected], cells[yours], strict=True)]
    return "\n".join(
        line.rstrip() for line in [*lines, " " * title + " ".join(map(str.rjust, marks, widths))]
    ).rstrip()
