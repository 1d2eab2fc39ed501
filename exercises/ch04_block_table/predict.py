"""Exercise 4.1: Predict the numbers of a table. (predict, about 5 minutes)

A request of 85 tokens, block size 16. Its block table says 10, 15, 7, 22, 3, 31. Seven questions,
each answered by a number. Do them on paper first, then let each function return its number.

Check: python -m minivllm.course check 4.1     (or: python -m pytest exercises/ch04_block_table/predict.py)
Stuck: python -m minivllm.course hint 4.1
"""

from __future__ import annotations


def blocks_for_85_tokens() -> int:
    """How many blocks of 16 tokens do 85 tokens need?"""
    raise NotImplementedError("exercise 4.1: blocks_for_85_tokens")


def logical_block_of_50() -> int:
    """In which logical block is position 50? Positions and blocks count from 0."""
    raise NotImplementedError("exercise 4.1: logical_block_of_50")


def offset_of_50() -> int:
    """Which place inside that block has position 50?"""
    raise NotImplementedError("exercise 4.1: offset_of_50")


def slot_of_50() -> int:
    """Which slot of the memory is it?"""
    raise NotImplementedError("exercise 4.1: slot_of_50")


def empty_slots() -> int:
    """How many slots of the request's blocks hold nothing yet?"""
    raise NotImplementedError("exercise 4.1: empty_slots")


def blocks_missing_for_96() -> int:
    """The request grows to 96 tokens. How many more blocks does it need?"""
    raise NotImplementedError("exercise 4.1: blocks_missing_for_96")


def blocks_missing_for_97() -> int:
    """And for 97 tokens?"""
    raise NotImplementedError("exercise 4.1: blocks_missing_for_97")
