"""The words and texts that all training data is made of: the TOML files beside this module.

A `Lexicon` is a plain value. Nothing here is random and nothing knows how the texts are combined.
"""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "held_out"]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Term:
    """One entry of the glossary. The Chinese fields are empty for most terms."""

    name: str
    aliases: tuple[str, ...]
    answer: str
    chapter: int
    see: tuple[str, ...]
    name_zh: str = ""
    answer_zh: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every way the term is written: its name, then its aliases."""
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class Phrasing:
    """Ways of asking one thing: templates for training, and others kept back for evaluation."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The templates of one split."""
        return self.train if split == "train" else self.held_out


@dataclass(frozen=True)
class Intent:
    """A kind of small talk and the one answer it always gets."""

    name: str
    answer: str
    phrasing: Phrasing


@dataclass(frozen=True)
class ToldFact:
    """A fact that visitors tell about themselves; {v} stands for its value in all texts."""

    values: str  # the list of words the value comes from, or "numbers"
    tell: tuple[str, ...]
    reply: str
    phrasing: Phrasing  # ways of asking for it later
    answer: str
    never_told: str


@dataclass(frozen=True)
class Lexicon:
    """Everything the generator draws from."""

    terms: tuple[Term, ...]
    words: dict[str, tuple[str, ...]]  # the lists of words.toml, such as "listed", "unseen", "names"
    phrasings: dict[str, Phrasing]
    intents: tuple[Intent, ...]
    told: dict[str, ToldFact]
    elsewhere: dict[str, Phrasing]  # subjects outside the course, by language
    sounds: dict[str, tuple[str, ...]]  # what made-up words are put together from

    @cached_property
    def known_terms(self) -> frozenset[str]:
        """Every spelling of every term, in lower case."""
        return frozenset(spelling.lower() for term in self.terms for spelling in term.spellings)


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))


def _lists(name: str) -> dict[str, tuple[str, ...]]:
    return {key: tuple(values) for key, values in _read(name).items()}


def _phrasing(table: dict[str, Any]) -> Phrasing:
    return Phrasing(tuple(table["train"]), tuple(table["held_out"]))


def _term(table: dict[str, Any]) -> Term:
    return Term(**{**table, "aliases": tuple(table.get("aliases", ())), "see": tuple(table.get("see", ()))})


def _told_fact(table: dict[str, Any]) -> ToldFact:
    texts = {name: table[name] for name in ("values", "reply", "answer", "never_told")}
    return ToldFact(tell=tuple(table["tell"]), phrasing=_phrasing(table), **texts)


def load_lexicon() -> Lexicon:
    """Read the TOML files that lie beside this module."""
    return Lexicon(
        terms=tuple(_term(table) for table in _read("glossary.toml")["term"]),
        words=_lists("words.toml"),
        phrasings={name: _phrasing(table) for name, table in _read("phrasings.toml").items()},
        intents=tuple(
            Intent(table["name"], table["answer"], _phrasing(table))
            for table in _read("smalltalk.toml")["intent"]
        ),
        told={name: _told_fact(table) for name, table in _read("told.toml").items()},
        elsewhere={name: _phrasing(table) for name, table in _read("elsewhere.toml").items()},
        sounds=_lists("sounds.toml"),
    )
