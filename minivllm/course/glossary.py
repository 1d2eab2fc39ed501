"""The terms of the course, and where the book explains them. The one list is minivllm/zoo/glossary.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minivllm import zoo

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
    text = Path(zoo.__file__).with_name("glossary.toml").read_text(encoding="utf-8")
    found = [
        Term(item["name"], tuple(item.get("aliases", ())), item["answer"], item["chapter"])
        for item in tomllib.loads(text)["term"]
    ]
    return {term.anchor: term for term in found}


def page() -> str:
    """The text of book/glossary.md."""
    lines = ["# Glossary", "", "The terms of the course, in the order in which its chapters need them."]
    for term in terms().values():
        lines += ["", f"## {term.name}", "", f"{term.answer} (Chapter {term.chapter:02d}.)"]
    return "\n".join(lines) + "\n"
