"""What attention and naive decoding cost: the numbers.

A prompt of 6 tokens is to be answered with 12. Naive decoding keeps nothing: for each new token it runs the model on
the whole text again. The last token of the answer is picked, and nobody reads it.
"""

from __future__ import annotations


def seen_by_the_last() -> int:
    """The model reads the prompt. How many tokens does the last token of it see, in causal attention?"""
    return 6  # itself, and the five before


def scores_of_the_prompt() -> int:
    """How many scores (a query times a key) does one head need for the prompt, when none is computed for nothing?"""
    return 21  # 1 + 2 + 3 + 4 + 5 + 6


def tokens_read_naively() -> int:
    """How many tokens does the model read until all 12 are picked? A token counts each time that it is read."""
    return 138  # 6 + 7 + ... + 17


def tokens_read_once() -> int:
    """How many would it read if every token were read once?"""
    return 17  # 6 + 11


def tokens_read(prompt: int, answer: int) -> int:
    """How many tokens does naive decoding read for a prompt and an answer of these lengths, both at least 1?"""
    return answer * prompt + answer * (answer - 1) // 2  # the prompt each time, and 0 + 1 + 2 + ... behind it
