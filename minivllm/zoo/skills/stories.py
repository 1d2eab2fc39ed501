"""Small stories from a grammar: told, continued, and asked about.

A `Tale` fixes what happens; `tell` words it. Each sentence has several wordings, every question has one answer.
"""

from dataclasses import dataclass

from minivllm.zoo.skills.base import Exchange, Maker, made_up_word, with_articles

_OPENING = (
    "{opening} {n} the {j} lived near {p0}.",
    "{opening} there was a {j} named {n}.",
    "{opening} a {j} called {n} went for a walk.",
    "{opening} {n}, a young {j}, woke up early.",
    "{opening} {n} the {j} sat near {p0} and sang a song.",
    "{opening} {n} was the best {j} near {p0}.",
)
_THING = (
    "{n} had a {c} {o} and loved it very much.",
    "The best thing {n} had was a {c} {o}.",
    "{n} always carried a {c} {o}.",
    "A friend had given {n} a {c} {o}.",
    "On the table lay a {c} {o}, a present for {n}.",
)
_LOSS = (
    "One day {n} lost the {o} at {p}.",
    "Then {n} lost the {o} at {p} and was very sad.",
    "But the {o} was lost at {p}, and {n} began to cry.",
    "That day {n} walked to {p} and lost the {o} there.",
    "At {p} the wind took the {o} away from {n}.",
)
_SEARCH = (
    "{n} looked everywhere, but it was gone.",
    "It was getting dark, and nobody came.",
    "{n} asked everyone, but nobody had seen it.",
    "The rain began to fall.",
    "",
    "",
)
_FINDER = (
    "A {a} found the {o} and brought it back.",
    "A kind {a} heard this and found the {o}.",
    "Then a small {a} came and found the {o} under a leaf.",
    "At last a clever {a} found the {o} behind a stone.",
    "A friendly {a} said: I will help you. Soon the {a} found the {o}.",
)
_ENDING = (
    "{n} and the {a} ate {f} together. The end.",
    "To say thanks, {n} shared some {f} with the {a}. The end.",
    "They sat down, ate {f} and were happy. The end.",
    "That evening {n} and the {a} ate {f} and became friends. The end.",
    "{n} laughed, and they ate {f} until the sun went down. The end.",
)
_QUESTIONS = {
    "story_who_lost": "{n} lost the {o}.",
    "story_what_lost": "{n} lost the {o}.",
    "story_where": "The {o} was lost at {p}.",
    "story_who_found": "The {a} found the {o}.",
    "story_colour": "The {o} was {c}.",
    "story_food": "They ate {f}.",
    "story_job": "{n} was a {j}.",
}


@dataclass(frozen=True)
class Tale:
    """What happens in one story: the slots, and its sentences in order."""

    slots: dict[str, str]
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole story."""
        return " ".join(self.sentences)


def make_tale(maker: Maker, **fixed: str) -> Tale:
    """A story with random slots; `fixed` sets some of them, such as `a="fox"`."""
    place, other = maker.rng.sample(maker.lexicon.words["places"], 2)
    slots = {
        "opening": maker.word("openings"),
        "n": maker.word("names"),
        "a": maker.word("animals"),
        "o": maker.word("objects"),
        "c": maker.word("colours"),
        "f": maker.word("foods"),
        "j": maker.word("jobs"),
        "p": place,
        "p0": other,
    } | fixed
    sections = (_OPENING, _THING, _LOSS, _SEARCH, _FINDER, _ENDING)
    sentences = [with_articles(maker.rng.choice(section).format(**slots)) for section in sections]
    return Tale(slots, tuple(sentence for sentence in sentences if sentence))


def _question(maker: Maker, tale: Tale, kind: str) -> Exchange:
    answer = with_articles(_QUESTIONS[kind].format(**tale.slots))
    return Exchange("story_question", maker.ask(kind, **tale.slots), answer)


def reading(maker: Maker, num_questions: int) -> list[Exchange]:
    """A story and questions on it, no question kind twice; the first exchange holds the story."""
    tale = make_tale(maker)
    kinds = maker.rng.sample(list(_QUESTIONS), min(num_questions, len(_QUESTIONS)))
    exchanges = [_question(maker, tale, kind) for kind in kinds]
    first = exchanges[0]
    exchanges[0] = Exchange(first.skill, maker.ask("notes", s=tale.text, q=first.user), first.assistant)
    return exchanges


def _subject(maker: Maker) -> str:
    kind = maker.rng.random()
    if kind < 0.55:
        return maker.word("animals")
    return maker.word("listed") if kind < 0.75 else made_up_word(maker)


def story(maker: Maker) -> list[Exchange]:
    """A story on demand, about an animal or anything else, sometimes with a question on it afterwards."""
    rng = maker.rng
    if rng.random() < 0.3:
        tale, question = make_tale(maker), maker.ask("any_story")
    elif rng.random() < 0.2:
        name = maker.word("names")
        tale, question = make_tale(maker, n=name), maker.ask("tell_story", a=name)
    else:
        subject = _subject(maker)
        tale = make_tale(maker, a=subject)
        article = "" if rng.random() < 0.2 else rng.choice(["a ", "the "])
        question = maker.ask("tell_story", a=with_articles(article + subject))
    if rng.random() < 0.25:
        question = question[:1].lower() + question[1:].rstrip(".")
    exchanges = [Exchange("story", question, tale.text)]
    if rng.random() < 0.4:
        exchanges.append(_question(maker, tale, rng.choice(list(_QUESTIONS))))
    return exchanges


def continuation(maker: Maker) -> list[Exchange]:
    """The beginning of a story, to be continued."""
    tale = make_tale(maker)
    cut = maker.rng.randint(1, len(tale.sentences) - 1)
    beginning = " ".join(tale.sentences[:cut])
    if cut == 1 and maker.chance(0.3):  # only the opening words
        words = beginning.split()
        cut_words = maker.rng.randint(3, len(words) - 1)
        text, rest = " ".join(words[:cut_words]), " ".join(words[cut_words:])
        rest = " ".join([rest, *tale.sentences[1:]])
    else:
        text, rest = beginning, " ".join(tale.sentences[cut:])
    return [Exchange("continuation", maker.ask("continue", s=text), rest)]
