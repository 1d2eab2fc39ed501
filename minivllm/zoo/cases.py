"""Held-out questions for the evaluation: other seeds, other ways of asking, other words than in training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from minivllm.zoo.dialogue import Mixture, make_maker, single
from minivllm.zoo.lexicon import Lexicon
from minivllm.zoo.skills import glossary, lookup, smalltalk, stories, told, words
from minivllm.zoo.skills.base import Exchange, Maker

# Share of right answers asked of `tutor`, in percent; skills without an entry are only reported.
THRESHOLDS = {
    "glossary": 97.0,
    "lookup_500": 98.0,
    "lookup_1500": 95.0,
    "copy_listed": 98.0,
    "reverse_listed": 98.0,
    "count_listed": 98.0,
    "sort_listed": 85.0,
    "copy_unseen": 88.0,
    "reverse_unseen": 88.0,
    "count_unseen": 88.0,
    "story_question": 98.0,
    "told": 95.0,
    "hello": 95.0,
    "who": 95.0,
    "unknown": 95.0,
}


@dataclass(frozen=True)
class Case:
    """One question of the evaluation: the conversation so far, and the one right answer ("" where any will do)."""

    skill: str
    messages: tuple[tuple[str, str], ...]  # (role, content), the last by the user
    answer: str

    @property
    def question(self) -> str:
        """All that the user wrote."""
        return "\n".join(content for role, content in self.messages if role == "user")


def _case(skill: str, exchanges: list[Exchange], is_open: bool = False) -> Case:
    """The last exchange is asked, those before it are given with their right answers."""
    messages: list[tuple[str, str]] = []
    for exchange in exchanges:
        messages += [("user", exchange.user), ("assistant", exchange.assistant)]
    return Case(skill, tuple(messages[:-1]), "" if is_open else exchanges[-1].assistant)


def _one(source: Callable[[Maker], list[Exchange]]) -> Callable[[Maker, str], Case]:
    """Cases of a scene that makes several skills: drawn until the wanted one comes."""

    def make(maker: Maker, skill: str) -> Case:
        while True:
            exchanges = source(maker)
            if exchanges[-1].skill == skill:
                return _case(skill, exchanges)

    return make


def _facts(least: int, most: int) -> Callable[[Maker, str], Case]:
    def make(maker: Maker, skill: str) -> Case:
        num_facts = max(2, round(maker.rng.uniform(least, most) / 9) - 3)  # a fact takes about 9 tokens
        asked = maker.rng.choice([1, 1, 3])
        return _case(skill, lookup.lookup(maker, num_facts, asked))

    return make


def _story_question(maker: Maker, skill: str) -> Case:
    return _case(skill, stories.reading(maker, maker.rng.randint(1, 3)))


def _told(maker: Maker, skill: str) -> Case:
    tell, ask = told.telling(maker, maker.rng.choice(list(maker.lexicon.told)))
    between = [one for _ in range(maker.rng.randint(1, 4)) for one in single(maker, Mixture())]
    return _case(skill, [tell, *between, ask])


def _never_told(maker: Maker, skill: str) -> Case:
    return _case(skill, told.never_told(maker, maker.rng.choice(list(maker.lexicon.told))))


def _open(source: Callable[[Maker], list[Exchange]]) -> Callable[[Maker, str], Case]:
    """Cases without a single right answer: the text only has to end and to consist of whole words."""

    def make(maker: Maker, skill: str) -> Case:
        return _case(skill, source(maker)[:1], is_open=True)

    return make


def _anything(maker: Maker) -> list[Exchange]:
    """A prompt of any kind: a scene of the mixture, or the `unseen` words in no order at all."""
    if maker.chance(0.5):
        return single(maker, Mixture())
    count = maker.rng.randint(1, 12)
    kinds = ("unseen", "listed", "names", "foods")
    return [Exchange("any", " ".join(maker.word(maker.rng.choice(kinds)) for _ in range(count)), "")]


_SMALLTALK = ("hello", "who", "help", "thanks", "off_topic", "hello_zh", "other_zh")
_MAKERS: dict[str, Callable[[Maker, str], Case]] = {
    "glossary": _one(glossary.definition),
    "cross_reference": _one(glossary.cross_reference),
    "chinese": _one(glossary.chinese),
    "unknown": _one(glossary.unknown),
    "unknown_zh": _one(glossary.chinese),
    "lookup_500": _facts(100, 500),
    "lookup_1500": _facts(500, 1500),
    **{f"{name}_listed": _one(words.listed_words) for name in words.OPERATIONS},
    **{f"{name}_unseen": _one(words.other_words) for name in words.OPERATIONS},
    "story_question": _story_question,
    "told": _told,
    "never_told": _never_told,
    **{name: _one(smalltalk.smalltalk) for name in _SMALLTALK},
    "confused": _one(smalltalk.confused),
    "story": _open(stories.story),
    "continuation": _open(stories.continuation),
    "any_prompt": _open(_anything),
}
SKILLS = tuple(_MAKERS)


def cases(lexicon: Lexicon, skill: str, count: int, seed: int = 0) -> Iterator[Case]:
    """`count` held-out cases of one skill, always the same for the same seed."""
    for index in range(count):
        maker = make_maker(lexicon, f"evaluate:{seed}:{skill}:{index}", "held_out")
        yield _MAKERS[skill](maker, skill)


def token_ids(tokenizer: Tokenizer, case: Case) -> list[int]:
    """The case as the chat template writes it, ready for the answer."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in case.messages)
    return tokenizer.encode(text + "<|im_start|>assistant\n").ids
