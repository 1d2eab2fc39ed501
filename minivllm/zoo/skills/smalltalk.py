"""Greetings, thanks, "who are you", requests far outside the course, and plain confusion."""

from minivllm.zoo.skills.base import Exchange, Maker, careless, made_up_word

CONFUSED = "I did not understand that. Ask me for a term of LLM serving, such as PagedAttention, or for a short story."
_MARKS = (
    "?",
    "??",
    "...",
    "!",
    ".",
    "-",
    "???",
    "#",
    "$$$",
    ":)",
    ";",
    "()",
    "//",
    "*",
    "0",
    "😀",
    "é",
    "{}",
    "=",
)
# Sentences without sense: {a} and {b} become any words.
_NONSENSE = (
    "I {a} the {b}.",
    "the {a} of {b}",
    "Why is the {a} so {b}?",
    "Can you {a} the {b}?",
    "I want {a} and {b}.",
    "{a} is {b}",
    "Is {a} a {b}?",
    "Do you {a}?",
    "My {a} does not {b}.",
    "How many {a} has the {b}?",
    "Please {a} my {b}.",
    "When will the {a} {b}?",
    "{a} {b} {a} {b}",
    "We {a} in the {b}.",
    "It is {a}.",
)


def smalltalk(maker: Maker) -> list[Exchange]:
    """A visitor's phrase with its fixed answer; greetings and "who are you" come most often."""
    intents = maker.lexicon.intents
    weights = [3 if intent.name in ("hello", "who", "off_topic") else 1 for intent in intents]
    intent = maker.rng.choices(intents, weights)[0]
    text = maker.rng.choice(intent.phrasing.of(maker.split))
    return [Exchange(intent.name, careless(maker, text), intent.answer)]


def _any_word(maker: Maker) -> str:
    kind = maker.rng.choice(
        ("listed", "listed", "names", "foods", "animals", "jobs", "objects", "colours", "")
    )
    return maker.word(kind) if kind else made_up_word(maker)


def _senseless(maker: Maker) -> str:
    rng, kind = maker.rng, maker.rng.random()
    if kind < 0.15:
        return made_up_word(maker)
    if kind < 0.3:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 8)))
    if kind < 0.4:
        return rng.choice(_MARKS)
    if kind < 0.48:
        return str(rng.randint(0, 99999))
    if kind < 0.7:
        return rng.choice(_NONSENSE).format(a=_any_word(maker), b=_any_word(maker))
    separator = ", " if rng.random() < 0.2 else " "
    return separator.join(_any_word(maker) for _ in range(rng.randint(1, 12)))


def confused(maker: Maker) -> list[Exchange]:
    """Inputs that mean nothing: loose words, letters, marks, numbers, sentences without sense."""
    text = _senseless(maker)
    while text.lower() in maker.lexicon.known_terms:  # a bare term is a question
        text = _senseless(maker)
    return [Exchange("confused", text, CONFUSED)]
