"""Exercise 0.1: Predict the waste."""

from __future__ import annotations


def blocks_of_16() -> int:
    """A request has 41 tokens in the KV cache, and a block holds 16. How many blocks does the request hold?"""
    return 3  # 16 + 16 + 9


def empty_slots_of_16() -> int:
    """How many slots of these blocks are empty?"""
    return 7  # the last block has 9 of its 16 slots filled


def blocks_of_4() -> int:
    """The same 41 tokens, but a block holds 4. How many blocks?"""
    return 11  # ten full ones, and one with a single token


def empty_slots_of_4() -> int:
    """How many slots of these are empty?"""
    return 3  # 44 slots for 41 tokens


def most_empty_slots(block_size: int) -> int:
    """How many slots of its blocks can a request leave empty at most?"""
    return block_size - 1  # one token in the last block; a block without any would not be there
