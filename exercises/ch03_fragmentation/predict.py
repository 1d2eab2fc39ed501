"""Exercise 3.3: Predict the waste of a trace. (predict, about 10 minutes)

Eight questions about two small traces. Draw the slots on squared paper, then let each function
return its number. The grader plays both traces through the simulator and compares.

Trace 1, memory for 48 tokens. Two requests arrive together. A has a prompt of 5 tokens and will
answer 4, B has a prompt of 9 and will answer 2. The last token of an answer is sampled and never
written, so A will hold 8 tokens at its end, and B 10. Look at the memory when both prompts have
been written.

Trace 2, memory for 24 tokens. A, B and C were each given a reservation of 8 tokens, side by side. A
and C have finished, B is still there. Now D is at the head of the queue: a prompt of 10 tokens, 12
tokens at its end.

Check: python -m minivllm.course check 3.3     (or: python -m pytest exercises/ch03_fragmentation/predict.py)
Stuck: python -m minivllm.course hint 3.3
"""

from __future__ import annotations


def reserved_by_max() -> int:
    """Trace 1, 16 tokens are reserved for every request. How many empty slots will A and B write later, together?"""
    raise NotImplementedError("exercise 3.3: reserved_by_max")


def internal_by_max() -> int:
    """The same. How many slots will A and B never write, together?"""
    raise NotImplementedError("exercise 3.3: internal_by_max")


def internal_by_pow2() -> int:
    """Trace 1, reserved are the prompt and the answer rounded up to a power of two. How many will they never write?"""
    raise NotImplementedError("exercise 3.3: internal_by_pow2")


def blocks_by_paged() -> int:
    """Trace 1, blocks of 4 tokens on demand. How many blocks do A and B hold together?"""
    raise NotImplementedError("exercise 3.3: blocks_by_paged")


def empty_by_paged() -> int:
    """The same. How many slots of these blocks are empty?"""
    raise NotImplementedError("exercise 3.3: empty_by_paged")


def most_empty_by_paged() -> int:
    """Blocks of 16 tokens. How many empty slots can one request hold at most, whatever its length?"""
    raise NotImplementedError("exercise 3.3: most_empty_by_paged")


def external_slots() -> int:
    """Trace 2, reservations in one piece. How many free slots are of no use to D, because they lie in pieces?"""
    raise NotImplementedError("exercise 3.3: external_slots")


def blocks_for_d() -> int:
    """Trace 2 with blocks of 4 on demand instead. How many blocks is D given when it starts?"""
    raise NotImplementedError("exercise 3.3: blocks_for_d")
