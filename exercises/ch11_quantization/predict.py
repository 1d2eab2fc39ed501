"""Exercise 11.1: Predict a group of weights. (predict, about 10 minutes)

Five weights share a grid of 16 evenly spaced numbers, from the smallest weight to the largest. Nine
questions, each answered by a number. Draw the grid as 16 ticks on a line first, and then let each
function return its number.

Check: python -m minivllm.course check 11.1     (or: python -m pytest exercises/ch11_quantization/predict.py)
Stuck: python -m minivllm.course hint 11.1
"""

from __future__ import annotations


def step() -> float:
    """Weights -0.6, -0.2, 0.0, 0.3, 0.9 share a grid of 16 evenly spaced numbers. How far apart are two of them?"""
    raise NotImplementedError("exercise 11.1: step")


def zero_point() -> int:
    """The grid's numbers are counted from 0 to 15, the smallest first. Which of them stands for the weight 0.0?"""
    raise NotImplementedError("exercise 11.1: zero_point")


def number_of_largest() -> int:
    """Which number does the weight 0.9 get?"""
    raise NotImplementedError("exercise 11.1: number_of_largest")


def number_of_between() -> int:
    """A weight of 0.27 joins the group. Which number does it get?"""
    raise NotImplementedError("exercise 11.1: number_of_between")


def largest_error() -> float:
    """How far can rounding to nearest move a weight between -0.6 and 0.9?"""
    raise NotImplementedError("exercise 11.1: largest_error")


def step_with_outlier() -> float:
    """A weight of 2.4 joins the group. How far apart are two numbers of the grid now, for all of its weights?"""
    raise NotImplementedError("exercise 11.1: step_with_outlier")


def bits_with_groups_of_128() -> float:
    """For each group of 128 a scale of 16 bits and a zero point of 4 bits are stored, too. How many bits a weight?"""
    raise NotImplementedError("exercise 11.1: bits_with_groups_of_128")


def bits_with_groups_of_32() -> float:
    """And with groups of 32?"""
    raise NotImplementedError("exercise 11.1: bits_with_groups_of_32")


def words_of_a_row() -> int:
    """Eight 4-bit numbers fit into a word of 32 bits. How many words hold the 4,096 weights of one input?"""
    raise NotImplementedError("exercise 11.1: words_of_a_row")
