"""Exercise 13.1: Predict who holds and says what. (predict, about 10 minutes)

A model of 8 billion weights is divided in three ways. Ten questions, each answered by a number.
Draw the four matrices of a layer first, and mark on each what one of two ranks holds.

Check: python -m minivllm.course check 13.1     (or: python -m pytest exercises/ch13_parallelism/predict.py)
Stuck: python -m minivllm.course hint 13.1
"""

from __future__ import annotations


def sums_of_a_layer() -> int:
    """With tensor parallelism, how often must the ranks add up their results in one layer?"""
    raise NotImplementedError("exercise 13.1: sums_of_a_layer")


def sums_of_a_step() -> int:
    """The model has 32 layers, and its embedding is divided by token ids. How many sums has a step?"""
    raise NotImplementedError("exercise 13.1: sums_of_a_step")


def bytes_of_a_sum() -> int:
    """Hidden states have 4,096 numbers of 16 bits. How many bytes does a rank hand in at one sum, for one token?"""
    raise NotImplementedError("exercise 13.1: bytes_of_a_sum")


def heads_of_a_rank() -> int:
    """32 query heads on 8 tensor parallel ranks: how many does a rank hold?"""
    raise NotImplementedError("exercise 13.1: heads_of_a_rank")


def kv_heads_of_a_rank() -> int:
    """8 kv heads on 16 tensor parallel ranks: how many does a rank hold?"""
    raise NotImplementedError("exercise 13.1: kv_heads_of_a_rank")


def kv_bytes_of_a_rank() -> int:
    """A token's keys and values take 128 KiB in one process. How many KiB on each of these 16 ranks?"""
    raise NotImplementedError("exercise 13.1: kv_bytes_of_a_rank")


def layers_of_the_last_stage() -> int:
    """30 layers on 4 pipeline stages. How many does the last stage hold, which also computes the logits?"""
    raise NotImplementedError("exercise 13.1: layers_of_the_last_stage")


def bytes_between_stages() -> int:
    """How many bytes go from one stage to the next, for one token?"""
    raise NotImplementedError("exercise 13.1: bytes_between_stages")


def busy_percent() -> float:
    """4 stages, and one batch after the other goes through all of them. What share of its time does a stage work?"""
    raise NotImplementedError("exercise 13.1: busy_percent")


def messages_between_replicas() -> int:
    """Data parallelism: how many messages do two replicas exchange in a step?"""
    raise NotImplementedError("exercise 13.1: messages_between_replicas")
