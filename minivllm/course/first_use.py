"""Where a chapter first uses a term of the glossary, and whether it links it there.

A reader may begin with any chapter, so each chapter links each term once, where it first comes up. The opening cell is
left out: it names what the chapter is going to explain. So is what is no prose: code, headings, and the questions to
recall, in which Markdown has no links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from minivllm.course.glossary import PAGE, Term, terms

ORDINARY = {"key", "rank", "step", "swap", "value"}  # words of every day as well
FENCED = re.compile(r"```[\s\S]*?```")
NO_PROSE = re.compile(  # within a line
    r"^(?: {4}|\t).*"  # code, by its indent
    r"|^#+ .*"  # a heading
    r"|`[^`]*`"
    r"|<summary>.*?</summary>|<[^>]+>"
    r"|\[[^\]]*\]\((?P<target>[^)\s]*)\)"  # a link, or an image
)


@dataclass(frozen=True)
class Use:
    """A word of the prose that stands for a term."""

    cell: str  # its id
    start: int  # in the cell's text
    word: str
    term: Term


def unlinked(cells: Iterable[tuple[str, str]]) -> Iterator[Use]:
    """The first use of each term that is linked neither before nor in the same paragraph.

    Args:
        cells: id and text of each Markdown cell, in order, without the opening one.
    """
    known: set[str] = set()  # anchors that were linked or reported
    for name, text in cells:
        start = 0
        for line in _blank(FENCED, text).split("\n"):  # a paragraph, an item, a row of a table
            links = {match["target"] for match in NO_PROSE.finditer(line) if match["target"]}
            known |= {link.removeprefix(f"{PAGE}#") for link in links if link.startswith(f"{PAGE}#")}
            for match in _any_term().finditer(_blank(NO_PROSE, line)):
                term = _term_of(match[0])
                if term.anchor not in known:
                    known.add(term.anchor)
                    yield Use(name, start + match.start(), match[0], term)
            start += len(line) + 1


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """`text` with zeros for what matches, so that places stay what they are."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), text)


@cache
def _forms() -> dict[str, Term]:
    """Name and aliases, as they are written -> term. Names of settings are code, not prose."""
    words = ((word, term) for term in terms().values() for word in (term.name, *term.aliases))
    return {word: term for word, term in words if "_" not in word and word not in ORDINARY}


@cache
def _any_term() -> re.Pattern[str]:
    """Any form, the longest first, also in the plural; capitals inside a word, as in RoPE, count."""
    found = []
    for word in sorted(_forms(), key=len, reverse=True):
        plural = f"{re.escape(word[:-1])}(?:y|ies)" if word.endswith("y") else f"{re.escape(word)}s?"
        found.append(plural if any(map(str.isupper, word[1:])) else f"(?i:{plural})")
    return re.compile(rf"(?<![\w-])(?:{'|'.join(found)})(?!\w|\.\w)")


@cache
def _term_of(word: str) -> Term:
    folded = {form.lower(): term for form, term in _forms().items()}
    candidates = word.lower(), word.lower().removesuffix("s"), re.sub("ies$", "y", word.lower())
    return next(folded[each] for each in candidates if each in folded)
