"""The words and texts that all training data is made of: glossary.toml, words.toml, phrasings.toml, smalltalk.toml.

A `Lexicon` is a plain value. Nothing here is random and nothing knows how the texts are combined.
"""

import tomllib
from dataclasses import dataclass
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
class Lexicon:
    """Everything the generator draws from."""

    terms: tuple[Term, ...]
    words: dict[str, tuple[str, ...]]  # listed, unseen, names, animals, places, objects, colours, foods, jobs, openings
    phrasings: dict[str, Phrasing]
    intents: tuple[Intent, ...]


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))


def _phrasing(table: dict[str, Any]) -> Phrasing:
    return Phrasing(tuple(table["train"]), tuple(table["held_out"]))


def _term(table: dict[str, Any]) -> Term:
    return Term(**{**table, "aliases": tuple(table.get("aliases", ())), "see": tuple(table.get("see", ()))})


def load_lexicon() -> Lexicon:
    """Read the four TOML files that lie beside this module."""
    return Lexicon(
        terms=tuple(_term(table) for table in _read("glossary.toml")["term"]),
        words={name: tuple(values) for name, values in _read("words.toml").items()},
        phrasings={name: _phrasing(table) for name, table in _read("phrasings.toml").items()},
        intents=tuple(
            Intent(table["name"], table["answer"], _phrasing(table)) for table in _read("smalltalk.toml")["intent"]
        ),
    )
