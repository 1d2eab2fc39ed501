"""Greetings, thanks, "who are you", requests far outside the course, and plain confusion."""

from minivllm.zoo.skills.base import Exchange, Maker, careless, made_up_word

CONFUSED = "I did not understand that. Ask me for a term of LLM serving, such as PagedAttention, or for a short story."


def smalltalk(maker: Maker) -> list[Exchange]:
    """A visitor's phrase with its fixed answer; greetings and "who are you" come most often."""
    intents = maker.lexicon.intents
    weights = [3 if intent.name in ("hello", "who", "off_topic") else 1 for intent in intents]
    intent = maker.rng.choices(intents, weights)[0]
    text = maker.rng.choice(intent.phrasing.of(maker.split))
    return [Exchange(intent.name, careless(maker, text), intent.answer)]


def confused(maker: Maker) -> list[Exchange]:
    """Short inputs that mean nothing: loose words, letters, marks, numbers."""
    rng, kind = maker.rng, maker.rng.random()
    if kind < 0.3:
        text = made_up_word(maker)
    elif kind < 0.5:
        text = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 8)))
    elif kind < 0.65:
        text = rng.choice(["?", "??", "...", "!", ".", "-", "???", "#", "$$$", ":)", ";", "()", "//", "*", "0", "😀", "é"])
    elif kind < 0.75:
        text = str(rng.randint(0, 99999))
    elif kind < 0.9:
        text = " ".join(maker.word("listed") for _ in range(rng.randint(1, 4)))
    else:
        text = " ".join(made_up_word(maker) for _ in range(rng.randint(2, 4)))
    known = {spelling.lower() for term in maker.lexicon.terms for spelling in term.spellings}
    if text in known:
        text = "?"
    return [Exchange("confused", text, CONFUSED)]
