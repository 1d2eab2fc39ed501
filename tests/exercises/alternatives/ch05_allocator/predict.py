"""The story is acted out with two lists of boxes."""

from collections import Counter

PARENT = ["a", "b", "c"]  # tokens 0-3, 4-7, 8-9


def counts(*tables):
    return Counter(box for table in tables for box in table)


def blocks_before_fork():
    return len(counts(PARENT))


def blocks_after_fork():
    return len(counts(PARENT, PARENT))


def references_to_last_block():
    return counts(PARENT, PARENT)["c"]


def blocks_after_first_write():
    return len(counts(PARENT, ["a", "b", "d"]))


def blocks_after_second_write():
    return blocks_after_first_write()


def blocks_after_child_ends():
    return len(counts(PARENT))
