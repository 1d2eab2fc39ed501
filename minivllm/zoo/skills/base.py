"""What all skills share: the exchange, the source of randomness, and ways to vary a question."""

import random
from dataclasses import dataclass

from minivllm.zoo.lexicon import Lexicon, Split

SYLLABLES = (
    "ba be bi bo bu ca co da de di do du fa fe fi fo ga ge go ha he hi ho ja jo ka ke ki la le li lo lu ma me mi mo "
    "mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi za zo ar en in "
    "on un er al ol am el ing ter ton ber der man son ness ful ment ish ock ash ump ell ack eep oon ough ight "
    "ch sh st th tr gr br pl cl fr sp sk"
).split()


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


def made_up_word(maker: Maker) -> str:
    """A word outside the lists: syllables, or a listed word changed. Never one of the `unseen` words."""
    rng = maker.rng
    while True:
        kind = rng.random()
        if kind < 0.55:
            word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))
        elif kind < 0.7:
            word = maker.word("listed") + rng.choice(["s", "ed", "ing", "er", "ly", "y", "ness", "less", "ish", "able"])
        elif kind < 0.8:
            word = rng.choice(["un", "re", "over", "out", "in", "be", "dis", "pre"]) + maker.word("listed")
        elif kind < 0.9:
            word = maker.word("listed") + maker.word("listed")
        else:
            letters = list(maker.word("listed"))
            letters[rng.randrange(len(letters))] = rng.choice("abcdefghijklmnopqrstuvwxyz")
            word = "".join(letters)
        if word not in maker.lexicon.words["unseen"] and word not in maker.lexicon.words["listed"]:
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
