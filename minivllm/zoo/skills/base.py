"""What all skills share: the exchange, the source of randomness, and ways to vary a question."""

import random
from dataclasses import dataclass

from minivllm.zoo.lexicon import Lexicon, Split

_ONSETS = "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sl sp st t th tr v w y z".split(" ")
_VOWELS = "a e i o u ai ea ee ie oa oo ou".split(" ")
_CODAS = " b ck d g l ll m mp n nd ng nk nt p r rd rk rm rn s sh sk ss st t th x".split(" ")
_ENDINGS = "er le y ing ness ful ment ish ock ash ump ell tion ity al ous ic ant ure ate age ory ism ize".split(" ")
_SUFFIXES = ("s", "ed", "ing", "er", "ly", "y", "ness", "less", "ish", "able")
_PREFIXES = ("un", "re", "over", "out", "in", "be", "dis", "pre")
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

    def ask(self, phrasing: str, **slots: str) -> str:
        """One way of asking, its slots filled."""
        return self.rng.choice(self.lexicon.phrasings[phrasing].of(self.split)).format(**slots)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability


def _pronounceable(rng: random.Random) -> str:
    """One or two syllables, often with an ending of English words."""
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(1, 2)))
    return word + rng.choice(_ENDINGS) if rng.random() < 0.5 else word


def made_up_word(maker: Maker) -> str:
    """A word outside the lists: pronounceable, or a listed word changed. Never one of the `unseen` words."""
    rng, lists = maker.rng, maker.lexicon.words
    while True:
        kind, listed = rng.random(), maker.word("listed")
        if kind < 0.55:
            word = _pronounceable(rng)
        elif kind < 0.7:
            word = listed + rng.choice(_SUFFIXES)
        elif kind < 0.8:
            word = rng.choice(_PREFIXES) + listed
        elif kind < 0.9:
            word = listed + maker.word("listed")
        else:
            spot = rng.randrange(len(listed))
            word = listed[:spot] + rng.choice(_LETTERS) + listed[spot + 1 :]
        if word not in lists["unseen"] and word not in lists["listed"]:
            return word


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
