"""Word games: copy, reverse, sort and count the words of a list."""

from minivllm.zoo.skills.base import Exchange, Maker, made_up_word

OPERATIONS = ("copy", "reverse", "sort", "count")


def answer(operation: str, words: list[str]) -> str:
    """The right answer. Each word stands after a space, so that a listed word is always the same single token."""
    if operation == "count":
        return f"There are {len(words)} words." if len(words) != 1 else "There is 1 word."
    if operation == "copy":
        return f"Copied: {', '.join(words)}."
    if operation == "reverse":
        return f"Reversed: {', '.join(reversed(words))}."
    return f"Sorted: {', '.join(sorted(words))}."


def _exchange(maker: Maker, skill: str, operation: str, words: list[str]) -> Exchange:
    separator = ", " if maker.chance(0.65) else " "
    text = separator.join(words)
    return Exchange(skill, maker.ask(operation, w=text), answer(operation, words))


def _listed(maker: Maker, most: int) -> list[str]:
    return maker.rng.sample(maker.lexicon.words["listed"], maker.rng.randint(2, most))


def listed_words(maker: Maker) -> list[Exchange]:
    """A word game on words of the list."""
    operation = maker.rng.choices(OPERATIONS, [2, 3, 7, 2])[0]
    words = _listed(maker, 6 if operation == "sort" else 8)
    return [_exchange(maker, f"{operation}_listed", operation, words)]


def _other_word(maker: Maker) -> str:
    kind = maker.rng.random()
    if kind < 0.15:
        return str(maker.rng.randint(0, 9999))
    return made_up_word(maker) if kind < 0.8 else maker.word("listed")


def other_words(maker: Maker) -> list[Exchange]:
    """A word game on words outside the list: made up for training, the `unseen` list for evaluation."""
    rng = maker.rng
    operation = rng.choices(OPERATIONS, [5, 6, 1, 4])[0]
    count = rng.randint(1 if operation == "copy" else 2, 4 if operation == "sort" else 6)
    if maker.split == "held_out":
        words = rng.sample(maker.lexicon.words["unseen"], max(2, count))
    else:
        words = [_other_word(maker) for _ in range(count)]
        if rng.random() < 0.1:
            words = [word.capitalize() for word in words]
    words = list(dict.fromkeys(words))
    return [_exchange(maker, f"{operation}_unseen", operation, words)]
