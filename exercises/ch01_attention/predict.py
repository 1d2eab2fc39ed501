"""Exercise 1.1: Predict the work. (predict, about 10 minutes)

A prompt of 6 tokens, an answer of 12, and a loop that runs the model on the whole text for each new
token. Four numbers and a rule. Draw the triangle of the prompt on paper first: a row for each
token, a box for each token that it sees.

Check: python -m minivllm.course check 1.1     (or: python -m pytest exercises/ch01_attention/predict.py)
Stuck: python -m minivllm.course hint 1.1
"""

from __future__ import annotations


def seen_by_the_last() -> int:
    """The model reads the prompt. How many tokens does the last token of it see, in causal attention?"""
    raise NotImplementedError("exercise 1.1: seen_by_the_last")


def scores_of_the_prompt() -> int:
    """How many scores (a query times a key) does one head need for the prompt, when none is computed for nothing?"""
    raise NotImplementedError("exercise 1.1: scores_of_the_prompt")


def tokens_read_naively() -> int:
    """How many tokens does the model read until all 12 are picked? A token counts each time that it is read."""
    raise NotImplementedError("exercise 1.1: tokens_read_naively")


def tokens_read_once() -> int:
    """How many would it read if every token were read once?"""
    raise NotImplementedError("exercise 1.1: tokens_read_once")


def tokens_read(prompt: int, answer: int) -> int:
    """How many tokens does naive decoding read for a prompt and an answer of these lengths, both at least 1?"""
    raise NotImplementedError("exercise 1.1: tokens_read")
