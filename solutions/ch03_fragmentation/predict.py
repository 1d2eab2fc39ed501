"""Exercise 3.3: Predict the waste of a trace."""

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
