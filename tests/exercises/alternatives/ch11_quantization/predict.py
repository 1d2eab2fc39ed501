"""Computed from the story, in tenths."""

WEIGHTS = [-6, -2, 0, 3, 9]


def step():
    return (max(WEIGHTS) - min(WEIGHTS)) / 15 / 10


def zero_point():
    return round(-min(WEIGHTS) / 10 / step())


def number_of_largest():
    return zero_point() + round(max(WEIGHTS) / 10 / step())


def number_of_between():
    return zero_point() + round(0.27 / step())


def largest_error():
    return step() / 2


def step_with_outlier():
    return (24 - min(WEIGHTS)) / 15 / 10


def bits_with_groups_of_128():
    return (128 * 4 + 16 + 4) / 128


def bits_with_groups_of_32():
    return (32 * 4 + 16 + 4) / 32


def words_of_a_row():
    return 4096 // 8
