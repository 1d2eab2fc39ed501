"""Facts about the visitor, told early in a conversation and asked for later."""

from minivllm.zoo.skills.base import Exchange, Maker, made_up_word, with_articles


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
    tell, reply, answer = (
        with_articles(text.format(v=value)) for text in (maker.rng.choice(fact.tell), fact.reply, fact.answer)
    )
    return [Exchange("told_reply", tell, reply), Exchange("told", question, answer)]


def never_told(maker: Maker, kind: str) -> list[Exchange]:
    """The visitor asks for a fact that the conversation does not hold."""
    fact = maker.lexicon.told[kind]
    return [Exchange("never_told", maker.rng.choice(fact.phrasing.of(maker.split)), fact.never_told)]
