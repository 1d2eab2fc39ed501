"""Dialogues: scenes of several skills woven into one conversation that fills a given number of tokens.

One row of training data is one conversation (or one plain text, for free completion). It is made from a seed
alone, so that training can stop and go on anywhere without any stored data.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from minivllm.zoo.lexicon import Lexicon
from minivllm.zoo.skills import glossary, lookup, smalltalk, stories, told, words
from minivllm.zoo.skills.base import Exchange, Maker

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are tutor, a small model that explains LLM serving.",
    "Answer briefly.",
    "You are a helpful, honest assistant.",
)

# Share of each kind of scene among the short ones; single questions that need no text before them.
SINGLES: dict[str, tuple[float, Callable[[Maker], list[Exchange]]]] = {
    "glossary": (8, glossary.definition),
    "cross_reference": (1, glossary.cross_reference),
    "chinese": (1.6, glossary.chinese),
    "unknown": (4, glossary.unknown),
    "smalltalk": (4, smalltalk.smalltalk),
    "confused": (1.8, smalltalk.confused),
    "listed_words": (14, words.listed_words),
    "other_words": (26, words.other_words),
    "story": (1.2, stories.story),
    "continuation": (1.2, stories.continuation),
}
# What the conversation is mainly about: facts to look up, a story to ask about, or a mixture of single questions.
THEMES = {"lookup": 0.30, "reading": 0.12, "mixed": 0.58}
TEXT_SHARE = 0.04  # rows of plain text, for completion without a chat


@dataclass(frozen=True)
class Mixture:
    """How often each theme and each single question comes; changed at a resume when a skill lags behind."""

    themes: dict[str, float] = field(default_factory=lambda: dict(THEMES))
    text: float = TEXT_SHARE
    singles: dict[str, float] = field(
        default_factory=lambda: {name: share for name, (share, _) in SINGLES.items()}
    )


def single(maker: Maker, mixture: Mixture) -> list[Exchange]:
    """One scene that needs no text before it."""
    names = list(mixture.singles)
    name = maker.rng.choices(names, [mixture.singles[name] for name in names])[0]
    return SINGLES[name][1](maker)


def weave(maker: Maker, main: list[Exchange], mixture: Mixture, aside: float) -> list[Exchange]:
    """The scene `main` in order, with single scenes thrown in between with probability `aside`."""
    woven: list[Exchange] = []
    for exchange in main:
        while maker.chance(aside):
            woven += single(maker, mixture)
        woven.append(exchange)
    return woven


def _told_apart(maker: Maker, mixture: Mixture, most: int) -> list[Exchange]:
    """Facts told by the visitor, other talk, then the questions for them."""
    kinds = maker.rng.sample(list(maker.lexicon.told), maker.rng.randint(1, 3))
    pairs = [told.telling(maker, kind) for kind in kinds]
    between = [one for _ in range(maker.rng.randint(0, most)) for one in single(maker, mixture)]
    later = [pair[1] for pair in pairs]
    others = [kind for kind in maker.lexicon.told if kind not in kinds]
    later += [one for kind in others if maker.chance(0.2) for one in told.never_told(maker, kind)]
    maker.rng.shuffle(later)
    return [pair[0] for pair in pairs] + between + weave(maker, later, mixture, 0.3)


def conversation(maker: Maker, num_tokens: int, mixture: Mixture) -> list[Exchange]:
    """Exchanges for a row of about `num_tokens` tokens; more than fit, the caller cuts."""
    rng = maker.rng
    names = list(mixture.themes)
    theme = rng.choices(names, [mixture.themes[name] for name in names])[0]
    exchanges: list[Exchange] = []
    if theme == "lookup":
        exchanges = lookup.lookup(maker, _num_facts(rng, num_tokens), num_tokens // 25)
        exchanges = weave(maker, exchanges, mixture, 0.08)
    elif theme == "reading":
        exchanges = weave(maker, stories.reading(maker, 7), mixture, 0.1)
    elif rng.random() < 0.45:
        exchanges = _told_apart(maker, mixture, max(1, num_tokens // 150))
    elif rng.random() < 0.15:
        exchanges = told.never_told(maker, rng.choice(list(maker.lexicon.told)))
    while sum(map(_size, exchanges)) < num_tokens:
        exchanges += single(maker, mixture)
    return exchanges


def _num_facts(rng: random.Random, num_tokens: int) -> int:
    """How many facts a text gets: often few, so that looking up is learned at all, and up to 4/5 of the row."""
    most = 0.8 * num_tokens / 9  # a fact takes about 9 tokens
    return int(
        rng.uniform(2, most) if rng.random() < 0.4 else math.exp(rng.uniform(math.log(2), math.log(most)))
    )


def _size(exchange: Exchange) -> int:
    """A lower estimate of the tokens an exchange takes."""
    return 10 + (len(exchange.user) + len(exchange.assistant)) // 6


def plain_text(maker: Maker) -> str:
    """A text without questions: a story, or an entry of the glossary."""
    if maker.chance(0.75):
        return stories.make_tale(maker).text
    return maker.rng.choice(maker.lexicon.terms).answer


def make_maker(lexicon: Lexicon, seed: str, split: str = "train") -> Maker:
    """The source of everything random in one row; the same seed gives the same row on every machine."""
    assert split in ("train", "held_out")
    return Maker(random.Random(seed), lexicon, split)  # type: ignore[arg-type]
