"""What two small traces waste under four memory policies: the numbers.

Trace 1, memory for 48 tokens. Two requests arrive together. A has a prompt of 5 tokens and will answer 4, B has a
prompt of 9 and will answer 2. The last token of an answer is sampled and never written, so A will hold 8 tokens at its
end, and B 10. Look at the memory when both prompts have been written.

Trace 2, memory for 24 tokens. A, B and C were each given a reservation of 8 tokens, side by side. A and C have
finished, B is still there. Now D is at the head of the queue: a prompt of 10 tokens, 12 tokens at its end.
"""

from __future__ import annotations


def reserved_by_max() -> int:
    """Trace 1, 16 tokens are reserved for every request. How many empty slots will A and B write later, together?"""
    return 4  # (8 - 5) + (10 - 9)


def internal_by_max() -> int:
    """The same. How many slots will A and B never write, together?"""
    return 14  # (16 - 8) + (16 - 10)


def internal_by_pow2() -> int:
    """Trace 1, reserved are the prompt and the answer rounded up to a power of two. How many will they never write?"""
    return 2  # A: 5 + 4 = 9 reserved for 8; B: 9 + 2 = 11 reserved for 10


def blocks_by_paged() -> int:
    """Trace 1, blocks of 4 tokens on demand. How many blocks do A and B hold together?"""
    return 5  # 5 tokens need 2 blocks, 9 tokens need 3


def empty_by_paged() -> int:
    """The same. How many slots of these blocks are empty?"""
    return 6  # 8 - 5 and 12 - 9


def most_empty_by_paged() -> int:
    """Blocks of 16 tokens. How many empty slots can one request hold at most, whatever its length?"""
    return 15  # one token in the last block; with none it would not hold that block


def external_slots() -> int:
    """Trace 2, reservations in one piece. How many free slots are of no use to D, because they lie in pieces?"""
    return 16  # two holes of 8: 16 would be enough for 12, and neither is


def blocks_for_d() -> int:
    """Trace 2 with blocks of 4 on demand instead. How many blocks is D given when it starts?"""
    return 3  # any 3 of the 4 free ones hold its prompt of 10 tokens; the next comes with token 13, which never comes
