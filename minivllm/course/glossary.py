"""The terms of the course, and where the book explains them.

Most stand in minivllm/zoo/glossary.toml, which is also what `tutor` learned by heart. A term that came later stands in
more_terms.toml: the book explains it, and the model is not asked to know it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minivllm import zoo
from minivllm.course.catalogue import Course

PAGE = "../book/glossary.md"  # as notebooks/ and exercises/ link to it


@dataclass(frozen=True)
class Term:
    """A word of the course."""

    name: str
    aliases: tuple[str, ...]
    answer: str
    chapter: int  # where it is introduced

    @property
    def anchor(self) -> str:
        """The fragment of its heading on the glossary page, as Markdown renderers make it."""
        return re.sub(r"[^\w-]", "", self.name.lower().replace(" ", "-"))


@cache
def terms() -> dict[str, Term]:
    """Anchor -> term, in the order of the chapters."""
    found = [_term(item, item["chapter"]) for item in _read(Path(zoo.__file__).with_name("glossary.toml"))]
    for item in _read(Path(__file__).with_name("more_terms.toml")):
        place = next(i for i, term in enumerate(found) if term.name == item["after"])
        found.insert(place + 1, _term(item, found[place].chapter))
    return {term.anchor: term for term in found}


def _read(path: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["term"]
    return items


def _term(item: dict[str, Any], chapter: int) -> Term:
    return Term(item["name"], tuple(item.get("aliases", ())), item["answer"], chapter)


def page(course: Course) -> str:
    """The text of book/glossary.md; a term leads to the chapter that introduces it."""
    pages = {chapter.number: f"{chapter.number:02d}_{chapter.slug}.ipynb" for chapter in course.chapters}
    lines = ["# Glossary", "", "The terms of the course, in the order in which its chapters need them."]
    for term in terms().values():
        chapter = f"[Chapter {term.chapter:02d}](../notebooks/{pages[term.chapter]})"
        lines += ["", f"## {term.name}", "", f"{term.answer} ({chapter}.)"]
    return "\n".join(lines) + "\n"
