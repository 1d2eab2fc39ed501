"""Exercise 11.1: Predict a group of weights."""

from __future__ import annotations


def step() -> float:
    """Weights -0.6, -0.2, 0.0, 0.3, 0.9 share a grid of 16 evenly spaced numbers. How far apart are two of them?"""
    return 0.1  # from -0.6 to 0.9 there are 15 steps


def zero_point() -> int:
    """The grid's numbers are counted from 0 to 15, the smallest first. Which of them stands for the weight 0.0?"""
    return 6  # six steps above -0.6


def number_of_largest() -> int:
    """Which number does the weight 0.9 get?"""
    return 15  # the grid ends there: 0.9 / 0.1 + 6


def number_of_between() -> int:
    """A weight of 0.27 joins the group. Which number does it get?"""
    return 9  # 2.7 steps above zero: the nearest is 3, and 3 + 6 = 9


def largest_error() -> float:
    """How far can rounding to nearest move a weight between -0.6 and 0.9?"""
    return 0.05  # half a step


def step_with_outlier() -> float:
    """A weight of 2.4 joins the group. How far apart are two numbers of the grid now, for all of its weights?"""
    return 0.2  # 3.0 / 15: one large weight makes the grid of all the others twice as coarse


def bits_with_groups_of_128() -> float:
    """For each group of 128 a scale of 16 bits and a zero point of 4 bits are stored, too. How many bits a weight?"""
    return 4.15625  # 4 + 20 / 128


def bits_with_groups_of_32() -> float:
    """And with groups of 32?"""
    return 4.625  # 4 + 20 / 32


def words_of_a_row() -> int:
    """Eight 4-bit numbers fit into a word of 32 bits. How many words hold the 4,096 weights of one input?"""
    return 512  # 4,096 / 8
