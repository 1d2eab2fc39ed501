"""Exercise 1.1, counted instead of known."""


def seen_by_the_last():
    return len(range(6))


def scores_of_the_prompt():
    return sum(range(1, 7))


def tokens_read_naively():
    return tokens_read(6, 12)


def tokens_read_once():
    return 6 + 12 - 1


def tokens_read(prompt, answer):
    return sum(prompt + i for i in range(answer))
