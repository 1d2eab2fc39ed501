"""Exercise 5.1: Predict a fork and two writes. (predict, about 5 minutes)

Six questions about one story, each answered by a number. Draw the two block tables on paper first,
then let each function return its number. A wrong prediction is worth more than a right one: it
shows what to look for in the picture.

Check: python -m minivllm.course check 5.1     (or: python -m pytest exercises/ch05_allocator/predict.py)
Stuck: python -m minivllm.course hint 5.1
"""

from __future__ import annotations


def blocks_before_fork() -> int:
    """A request of 10 tokens, block size 4. How many blocks does it hold?"""
    raise NotImplementedError("exercise 5.1: blocks_before_fork")


def blocks_after_fork() -> int:
    """Now it is forked: the child shares all 10 tokens. How many different blocks do the two hold together?"""
    raise NotImplementedError("exercise 5.1: blocks_after_fork")


def references_to_last_block() -> int:
    """How many references does the block with tokens 8 and 9 have now?"""
    raise NotImplementedError("exercise 5.1: references_to_last_block")


def blocks_after_first_write() -> int:
    """The child writes its token number 10. How many different blocks do the two hold together now?"""
    raise NotImplementedError("exercise 5.1: blocks_after_first_write")


def blocks_after_second_write() -> int:
    """Then the parent writes its own token number 10. How many different blocks do the two hold now?"""
    raise NotImplementedError("exercise 5.1: blocks_after_second_write")


def blocks_after_child_ends() -> int:
    """The child ends and gives its blocks back. How many blocks are still held?"""
    raise NotImplementedError("exercise 5.1: blocks_after_child_ends")
