"""Exercise 0.1: Predict the waste. (predict, about 5 minutes)

Four numbers and a rule, about one request with 41 tokens in the KV cache. A request gets whole
blocks, one more whenever the last one is full. Work it out on paper, then let each function return
its answer.

Check: python -m minivllm.course check 0.1     (or: python -m pytest exercises/ch00_first_token/predict.py)
Stuck: python -m minivllm.course hint 0.1
"""

from __future__ import annotations


def blocks_of_16() -> int:
    """A request has 41 tokens in the KV cache, and a block holds 16. How many blocks does the request hold?"""
    raise NotImplementedError("exercise 0.1: blocks_of_16")


def empty_slots_of_16() -> int:
    """How many slots of these blocks are empty?"""
    raise NotImplementedError("exercise 0.1: empty_slots_of_16")


def blocks_of_4() -> int:
    """The same 41 tokens, but a block holds 4. How many blocks?"""
    raise NotImplementedError("exercise 0.1: blocks_of_4")


def empty_slots_of_4() -> int:
    """How many slots of these are empty?"""
    raise NotImplementedError("exercise 0.1: empty_slots_of_4")


def most_empty_slots(block_size: int) -> int:
    """How many slots of its blocks can a request leave empty at most?"""
    raise NotImplementedError("exercise 0.1: most_empty_slots")
