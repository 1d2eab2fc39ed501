"""Questions on the course's glossary, in English and Chinese, and the honest answer to a term that is not in it."""

from minivllm.zoo.lexicon import Term
from minivllm.zoo.skills.base import Exchange, Maker, careless, careless_zh, made_up_word

UNKNOWN = "I do not know that term. I only know the terms of this course, for example PagedAttention."
UNKNOWN_ZH = "我不认识这个术语。"


def _spelling(maker: Maker, term: Term) -> str:
    """The term's name or an alias, now and then with an article or in lower case."""
    rng = maker.rng
    text = term.name if rng.random() < 0.4 else rng.choice(term.spellings)
    if maker.split == "train" and rng.random() < 0.15:
        text = rng.choice(["a ", "the ", "an "]) + text
    if rng.random() < 0.2:
        text = text.lower()
    elif rng.random() < 0.05:
        text = text[:1].upper() + text[1:]
    return text


def definition(maker: Maker) -> list[Exchange]:
    """What is this term?"""
    term = maker.rng.choice(maker.lexicon.terms)
    return [
        Exchange("glossary", careless(maker, maker.ask("glossary", t=_spelling(maker, term))), term.answer)
    ]


def cross_reference(maker: Maker) -> list[Exchange]:
    """Which chapter holds the term, or which terms belong to it."""
    term = maker.rng.choice(maker.lexicon.terms)
    if term.see and maker.chance(0.5):
        question, answer = "see", f"See also: {', '.join(term.see)}."
    else:
        question, answer = "chapter", f"Chapter {term.chapter} covers {term.name}."
    return [
        Exchange("cross_reference", careless(maker, maker.ask(question, t=_spelling(maker, term))), answer)
    ]


def chinese(maker: Maker) -> list[Exchange]:
    """One of the main terms, asked and answered in Chinese."""
    rng = maker.rng
    if rng.random() < 0.15:
        subject = rng.choice(maker.lexicon.elsewhere["chinese"].of(maker.split))
        return [Exchange("unknown_zh", careless_zh(maker, maker.ask("unknown_zh", t=subject)), UNKNOWN_ZH)]
    term = rng.choice([term for term in maker.lexicon.terms if term.answer_zh])
    # A bare English name is an English question.
    name = term.name_zh if rng.random() < 0.6 else rng.choice(term.spellings)
    question = maker.ask("zh", t=name)
    if question.isascii():
        question = maker.rng.choice(["什么是{t}？", "{t}是什么？"]).format(t=name)
    return [Exchange("chinese", careless_zh(maker, question), term.answer_zh)]


def _no_term(maker: Maker) -> str:
    """Something that is no term of the glossary: from elsewhere, made up, or pieces of terms wrongly put together."""
    rng, kind = maker.rng, maker.rng.random()
    if kind < 0.35:
        return rng.choice(maker.lexicon.elsewhere["english"].of(maker.split))
    if kind < 0.5:
        return made_up_word(maker)
    if kind < 0.65:
        return f"{maker.word('listed')} {maker.word('listed')}"
    if kind < 0.75:
        return maker.word("animals" if rng.random() < 0.5 else "foods")
    if kind < 0.87:
        return f"{made_up_word(maker)} {rng.choice(rng.choice(maker.lexicon.terms).name.split())}"
    pieces = rng.choice(maker.lexicon.terms).name.split()[:1] + [maker.word("listed")]
    return " ".join(pieces)


def unknown(maker: Maker) -> list[Exchange]:
    """A question on something that is not in the glossary."""
    subject = _no_term(maker)
    while subject.lower() in maker.lexicon.known_terms:
        subject = _no_term(maker)
    if maker.chance(0.1):
        subject = maker.rng.choice(["a ", "the "]) + subject
    question = maker.ask("glossary", t=subject)
    if question == subject:  # a bare word is answered as small talk, not as a question
        question = f"What is {subject}?"
    return [Exchange("unknown", careless(maker, question), UNKNOWN)]
