"""Exercise 5.1: Predict a fork and two writes."""

from __future__ import annotations


def blocks_before_fork() -> int:
    """A request of 10 tokens, block size 4. How many blocks does it hold?"""
    return 3  # 4 + 4 + 2 tokens: the last block is half full


def blocks_after_fork() -> int:
    """Now it is forked: the child shares all 10 tokens. How many different blocks do the two hold together?"""
    return 3  # a fork takes references and copies nothing


def references_to_last_block() -> int:
    """How many references does the block with tokens 8 and 9 have now?"""
    return 2  # it occurs in two tables


def blocks_after_first_write() -> int:
    """The child writes its token number 10. How many different blocks do the two hold together now?"""
    return 4  # the half-full block was shared, so the child writes into a copy of its own


def blocks_after_second_write() -> int:
    """Then the parent writes its own token number 10. How many different blocks do the two hold now?"""
    return 4  # nobody else holds the old block any more: the parent writes into it, no copy


def blocks_after_child_ends() -> int:
    """The child ends and gives its blocks back. How many blocks are still held?"""
    return 3  # the parent's; the two full blocks lost one reference each, and stay
