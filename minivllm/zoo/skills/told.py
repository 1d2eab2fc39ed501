"""Facts about the visitor, told early in a conversation and asked for later."""

from minivllm.zoo.skills.base import Exchange, Maker, made_up_word


def _value(maker: Maker, kind: str) -> str:
    values = maker.lexicon.told[kind].values
    if values == "numbers":
        return str(maker.rng.randint(2, 9999))
    if values == "names" and maker.chance(0.4):
        return made_up_word(maker).capitalize()
    return maker.word(values)


def telling(maker: Maker, kind: str) -> list[Exchange]:
    """Two exchanges that need not follow one another: the visitor tells a fact, and later asks for it."""
    fact, value = maker.lexicon.told[kind], _value(maker, kind)
    question = maker.rng.choice(fact.phrasing.of(maker.split))
    return [
        Exchange("told_reply", maker.rng.choice(fact.tell).format(v=value), fact.reply.format(v=value)),
        Exchange("told", question, fact.answer.format(v=value)),
    ]


def never_told(maker: Maker, kind: str) -> list[Exchange]:
    """The visitor asks for a fact that the conversation does not hold."""
    fact = maker.lexicon.told[kind]
    return [Exchange("never_told", maker.rng.choice(fact.phrasing.of(maker.split)), fact.never_told)]
