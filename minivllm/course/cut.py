"""Cutting an exercise out of its reference module: the solution's text, and the same text with bodies taken out.

The syntax tree only finds lines and names; the text itself is cut by line, so comments and layout survive.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minivllm.course.catalogue import Course, CourseError, Exercise, Mutant

WIDTH = 110
PACKAGE = Path(__file__).resolve().parents[1]
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Reference:
    """A reference module as text, its tree, and what it defines and imports at module level."""

    module: str
    lines: list[str]
    definitions: dict[str, Definition]
    imports: dict[str, str]  # name -> the statement that imports this name alone

    def text_of(self, node: ast.stmt) -> str:
        """The node's lines with its decorators and the comments directly above it."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while first > 0 and self.lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(self.lines[first : node.end_lineno])


def read_reference(module: str) -> Reference:
    """Parse a module of the package, without importing it."""
    path = reference_file(module)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(path))
    definitions: dict[str, Definition] = {}
    imports: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions.update({target.id: node for target in targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(_statements(node))
    return Reference(module, text.splitlines(), definitions, imports)


def reference_file(module: str) -> Path:
    """Where a module's source stands, in the package that runs."""
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _statements(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    for alias in node.names:
        renamed = f" as {alias.asname}" if alias.asname else ""
        name = alias.asname or alias.name.split(".")[0]
        stem = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
        yield name, f"{stem}import {alias.name}{renamed}"


def solution_text(exercise: Exercise) -> str:
    """The exercise's names with everything they need, as a module that stands alone."""
    reference = read_reference(exercise.reference)
    for name in exercise.names:
        if name not in reference.definitions:
            raise CourseError(f"exercise {exercise.id}: {exercise.reference} defines no {name}")
    nodes = [reference.definitions[name] for name in exercise.names]
    kept = [reference.text_of(node) for node in sorted(nodes, key=lambda node: node.lineno)]
    header = f'"""Exercise {exercise.id}: {exercise.title}."""'
    imports = _imports(reference, nodes, exercise)
    return f"{header}\n\n{imports}\n\n" + "\n\n\n".join(kept) + "\n"


def _imports(reference: Reference, nodes: list[Definition], exercise: Exercise) -> str:
    """Import statements for all that `nodes` use: the reference's own, and its other names from itself."""
    used = {node.id for kept in nodes for node in ast.walk(kept) if isinstance(node, ast.Name)}
    future: list[str] = []
    plain: list[str] = []
    ours: list[str] = []
    for name in sorted(used - set(exercise.names)):
        if name in reference.definitions:
            ours.append(f"from {reference.module} import {name}")
        elif name in reference.imports:
            statement = reference.imports[name]
            (ours if "minivllm" in statement else plain).append(statement)
    if "annotations" in reference.imports:
        future.append(reference.imports["annotations"])
    groups = [future, _merged(plain), _merged(ours)]
    return "\n\n".join("\n".join(group) for group in groups if group) + "\n"


def _merged(statements: list[str]) -> list[str]:
    """Sort the statements, those of one module in one line: `from m import a` and `from m import b`."""
    names: dict[str, list[str]] = {}
    for statement in statements:
        stem, name = statement.split("import ", 1)
        names.setdefault(stem or statement, []).append(name)
    lines = [
        f"{stem}import {', '.join(sorted(group, key=_isort_key))}" if stem.startswith("from ") else stem
        for stem, group in names.items()
    ]
    for line in lines:
        if len(line) > WIDTH:
            raise CourseError(f"an exercise would need a very long import, split its reference: {line}")
    return sorted(lines, key=lambda line: (line.startswith("from "), line))


def _isort_key(name: str) -> tuple[int, str]:
    """Constants, classes, functions: the order that ruff keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def stub_text(course: Course, exercise: Exercise) -> str:
    """What the learner begins with: bodies taken out, or, for kind debug, a bug put in."""
    text = solution_text(exercise)
    if exercise.bug is not None:
        text = mutate(exercise, text, exercise.mutant(exercise.bug))
    for name in exercise.blank:
        text = _blanked(text, name, exercise)
    where = course.learner_file(exercise).relative_to(course.root).as_posix()
    header = (
        f'"""Exercise {exercise.id}: {exercise.title}. ({exercise.kind}, about {exercise.minutes} minutes)\n\n'
        f"{_wrapped(exercise.task)}\n\n"
        f"Check: python -m minivllm.course check {exercise.id}     (or: python -m pytest {where})\n"
        f'Stuck: python -m minivllm.course hint {exercise.id}\n"""'
    )
    return header + text.split('"""', 2)[2]


def _wrapped(text: str) -> str:
    """Fill each paragraph; a paragraph with indented lines is a picture or a list, and stays as it is."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        paragraph
        if any(line.startswith((" ", "- ")) for line in paragraph.splitlines())
        else textwrap.fill(paragraph, 100)
        for paragraph in paragraphs
    )


def _blanked(text: str, name: str, exercise: Exercise) -> str:
    """Replace the body of a function, or of a method `Class.method`, after its docstring."""
    node = _find(ast.parse(text), name)
    if node is None:
        raise CourseError(
            f"exercise {exercise.id}: blank names {name}, which is no function in {exercise.names}"
        )
    body = node.body
    has_docstring = ast.get_docstring(node) is not None
    first = body[1] if has_docstring and len(body) > 1 else body[0]
    after_docstring = body[0].end_lineno if has_docstring else first.lineno - 1
    lines = text.splitlines()
    indent = " " * body[0].col_offset
    raised = f'{indent}raise NotImplementedError("exercise {exercise.id}: {name}")'
    return "\n".join([*lines[:after_docstring], raised, *lines[node.end_lineno :]]) + "\n"


def _find(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    nodes: list[ast.stmt] = tree.body
    *owners, function = name.split(".")
    for owner in owners:
        nodes = [s for n in nodes if isinstance(n, ast.ClassDef) and n.name == owner for s in n.body]
    return next((n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == function), None)


def mutate(exercise: Exercise, text: str, mutant: Mutant) -> str:
    """Apply a mutant to the solution's text."""
    if text.count(mutant.old) != 1:
        raise CourseError(
            f"exercise {exercise.id}, mutant {mutant.name}: old must occur once in the solution, "
            f"not {text.count(mutant.old)} times"
        )
    return text.replace(mutant.old, mutant.new)
