"""Look-up of facts in a text of many similar facts: the skill that fails at once when a cache block is wrong.

Every answer repeats the fact's own wording, so that the model only has to find the fact and copy it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from minivllm.zoo.skills.base import Exchange, Maker, with_articles


@dataclass(frozen=True)
class Fact:
    """A sentence of the text, and the questions it answers: (phrasing, slots, answer)."""

    statement: str
    questions: tuple[tuple[str, dict[str, str], str], ...]


def _code(key: str, code: str) -> Fact:
    text = f"The code for {key} is {code}."
    return Fact(text, (("code", {"k": key}, text),))


def _keeps(name: str, thing: str, place: str) -> Fact:
    text = f"The {thing} of {name} is kept at {place}."  # what is asked for stands first
    where = ("where", {"o": thing}, f"The {thing} is at {place}.")
    keeper = ("keeper", {"o": thing}, f"{name} keeps the {thing}.")
    return Fact(text, (where, keeper))


def _likes(name: str, food: str) -> Fact:
    text = f"{name} likes {food}."
    return Fact(text, (("likes", {"n": name}, text),))


def _works(name: str, job: str) -> Fact:
    text = with_articles(f"{name} works as a {job}.")
    return Fact(text, (("job", {"n": name}, text),))


def _lives(animal: str, place: str) -> Fact:
    text = f"The {animal} lives at {place}."
    return Fact(text, (("lives", {"a": animal}, text),))


def _facts(maker: Maker) -> Iterator[Fact]:
    """Facts without end, no two of which answer the same question."""
    rng, words = maker.rng, maker.lexicon.words

    def shuffled(kind: str) -> list[str]:
        return rng.sample(words[kind], len(words[kind]))

    keys, things, animals = shuffled("listed"), shuffled("objects"), shuffled("animals")
    keepers, eaters, workers = shuffled("names"), shuffled("names"), shuffled("names")
    while True:
        kind = rng.choices(("code", "keeps", "likes", "works", "lives"), (5, 4, 2, 2, 2))[0]
        if kind == "keeps" and keepers and things:
            yield _keeps(keepers.pop(), things.pop(), maker.word("places"))
        elif kind == "likes" and eaters:
            yield _likes(eaters.pop(), maker.word("foods"))
        elif kind == "works" and workers:
            yield _works(workers.pop(), maker.word("jobs"))
        elif kind == "lives" and animals:
            yield _lives(animals.pop(), maker.word("places"))
        elif keys:
            digits = "".join(rng.choice("0123456789") for _ in range(4))
            yield _code(keys.pop(), digits if rng.random() < 0.5 else maker.word("listed"))


def lookup(maker: Maker, num_facts: int, num_questions: int, skill: str = "lookup") -> list[Exchange]:
    """A text of `num_facts` facts and questions on it; the first exchange holds the text."""
    source = _facts(maker)
    facts = [next(source) for _ in range(num_facts)]
    asked = [maker.rng.choice(facts) for _ in range(num_questions)]
    exchanges = []
    for fact in asked:
        phrasing, slots, answer = maker.rng.choice(fact.questions)
        exchanges.append(Exchange(skill, maker.ask(phrasing, **slots), answer))
    text = " ".join(fact.statement for fact in facts)
    first = exchanges[0]
    exchanges[0] = Exchange(skill, maker.ask("notes", s=text, q=first.user), first.assistant)
    return exchanges
