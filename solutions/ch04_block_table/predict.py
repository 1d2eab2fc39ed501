"""Exercise 4.1: Predict the numbers of a table."""

from __future__ import annotations


def blocks_for_85_tokens() -> int:
    """How many blocks of 16 tokens do 85 tokens need?"""
    return 6  # 5 * 16 = 80, and 5 tokens more


def logical_block_of_50() -> int:
    """In which logical block is position 50? Positions and blocks count from 0."""
    return 3  # 50 // 16: blocks 0, 1, 2 hold positions 0 to 47


def offset_of_50() -> int:
    """Which place inside that block has position 50?"""
    return 2  # 50 % 16


def slot_of_50() -> int:
    """Which slot of the memory is it?"""
    return 354  # block 22: 22 * 16 + 2


def empty_slots() -> int:
    """How many slots of the request's blocks hold nothing yet?"""
    return 11  # 96 - 85


def blocks_missing_for_96() -> int:
    """The request grows to 96 tokens. How many more blocks does it need?"""
    return 0  # six full blocks: not one token too many


def blocks_missing_for_97() -> int:
    """And for 97 tokens?"""
    return 1  # position 96 begins logical block 6
