"""What all skills share: the exchange, the source of randomness, and ways to vary a question."""

import random
import re
from dataclasses import dataclass

from minivllm.zoo.lexicon import Lexicon, Split

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Exchange:
    """One question and its answer. `skill` is the name under which the loss and the accuracy are counted."""

    skill: str
    user: str
    assistant: str


@dataclass(frozen=True)
class Maker:
    """What a skill needs to make a scene: randomness, words, and which templates it may use."""

    rng: random.Random
    lexicon: Lexicon
    split: Split

    def word(self, kind: str) -> str:
        """One entry of a list of the lexicon, such as "animals"."""
        return self.rng.choice(self.lexicon.words[kind])

    def sound(self, kind: str) -> str:
        """One entry of sounds.toml, such as of its "prefixes"."""
        return self.rng.choice(self.lexicon.sounds[kind])

    def ask(self, phrasing: str, **slots: str) -> str:
        """One way of asking, its slots filled."""
        return self.rng.choice(self.lexicon.phrasings[phrasing].of(self.split)).format(**slots)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability


def _pronounceable(maker: Maker) -> str:
    """One or two syllables, often with an ending of English words."""
    syllable = ("onsets", "vowels", "codas")
    word = "".join(maker.sound(part) for _ in range(maker.rng.randint(1, 2)) for part in syllable)
    return word + maker.sound("endings") if maker.chance(0.5) else word


def made_up_word(maker: Maker) -> str:
    """A word outside the lists: another English one, a made-up one, or a listed one changed; never an `unseen` one."""
    rng, lists = maker.rng, maker.lexicon.words
    while True:
        kind, listed = rng.random(), maker.word("listed")
        if kind < 0.2:
            word = maker.sound("words")
        elif kind < 0.4:
            word = maker.sound("heads") + "".join(maker.sound("tails") for _ in range(rng.randint(1, 2)))
        elif kind < 0.55:
            word = listed[: rng.randint(2, 4)] + maker.sound("words")[-rng.randint(2, 4) :]
        elif kind < 0.62:
            word = _pronounceable(maker)
        elif kind < 0.7:
            word = listed + maker.sound("suffixes")
        elif kind < 0.8:
            word = maker.sound("prefixes") + listed
        elif kind < 0.9:
            word = listed + maker.word("listed")
        else:
            spot = rng.randrange(len(listed))
            word = listed[:spot] + rng.choice(_LETTERS) + listed[spot + 1 :]
        if word not in lists["unseen"] and word not in lists["listed"]:
            return word


def with_articles(text: str) -> str:
    """The text with "a" made "an" before a vowel: "an engineer", "an orange hat", but "a uniform"."""
    return re.sub(r"\b([Aa]) (?=[aeio]|u(?!ni))", r"\1n ", text)


def careless(maker: Maker, text: str) -> str:
    """The same question as people type it: lower case, no full stop, a word of courtesy."""
    rng, roll = maker.rng, maker.rng.random()
    if roll < 0.5:
        return text
    if roll < 0.75:
        text = text.rstrip(".?!")
    if rng.random() < 0.5:
        text = text[:1].lower() + text[1:]
    if roll > 0.97:
        text = text + rng.choice([" please", " ?", "??", "!", " pls"])
    return text


def careless_zh(maker: Maker, text: str) -> str:
    """A Chinese question as people type it: spaces beside Latin letters or none, any question mark or none."""
    if maker.chance(0.3):
        text = re.sub(
            r"(?<=[^\x00-\x7f]) ?(?=[A-Za-z])|(?<=[A-Za-z]) ?(?=[^\x00-\x7f？。])",
            maker.rng.choice(["", " "]),
            text,
        )
    if maker.chance(0.3):
        text = text.rstrip("？。") + maker.rng.choice(["", "", "?", "？", "。"])
    return text
