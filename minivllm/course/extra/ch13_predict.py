"""What ranks hold and say when an 8-billion model is divided: the numbers."""

from __future__ import annotations


def sums_of_a_layer() -> int:
    """With tensor parallelism, how often must the ranks add up their results in one layer?"""
    return 2  # after attention's output matrix, and after the feed-forward block's


def sums_of_a_step() -> int:
    """The model has 32 layers, and its embedding is divided by token ids. How many sums has a step?"""
    return 65  # 2 for each layer, and one for the rows of the embedding


def bytes_of_a_sum() -> int:
    """Hidden states have 4,096 numbers of 16 bits. How many bytes does a rank hand in at one sum, for one token?"""
    return 8192  # the whole hidden state: each rank's partial result has all of its numbers


def heads_of_a_rank() -> int:
    """32 query heads on 8 tensor parallel ranks: how many does a rank hold?"""
    return 4


def kv_heads_of_a_rank() -> int:
    """8 kv heads on 16 tensor parallel ranks: how many does a rank hold?"""
    return 1  # each is held by two ranks: a head cannot be cut


def kv_bytes_of_a_rank() -> int:
    """A token's keys and values take 128 KiB in one process. How many KiB on each of these 16 ranks?"""
    return 16  # an eighth and not a sixteenth


def layers_of_the_last_stage() -> int:
    """30 layers on 4 pipeline stages. How many does the last stage hold, which also computes the logits?"""
    return 7  # 7, 8, 8, 7: what is left over goes to the stages before it


def bytes_between_stages() -> int:
    """How many bytes go from one stage to the next, for one token?"""
    return 8192  # the hidden state, once


def busy_percent() -> float:
    """4 stages, and one batch after the other goes through all of them. What share of its time does a stage work?"""
    return 25.0  # while one works, three wait


def messages_between_replicas() -> int:
    """Data parallelism: how many messages do two replicas exchange in a step?"""
    return 0
