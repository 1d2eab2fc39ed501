"""What a scheduler does with two small loads, first come first served, chunked prefill, no prefix caching: the numbers.

Load 1: a budget of 8 tokens a step, room for everybody. Three requests wait, in this order:
a (prompt 5, answer 3), b (prompt 9, answer 2), c (prompt 2, answer 2). Steps count from 1. A step that computes the
last known token of a request samples its next one; who has sampled its whole answer is finished.

Load 2: a budget of 16 tokens, 4 blocks of 4 tokens in all. Two requests wait, in this order:
d (prompt 8, answer 6), e (prompt 7, answer 6).
"""

from __future__ import annotations


def tokens_of_b_in_step_1() -> int:
    """Load 1. How many tokens of b does step 1 compute?"""
    return 3  # 8 - 5: a comes first


def tokens_of_c_in_step_2() -> int:
    """Load 1. How many tokens of c does step 2 compute?"""
    return 1  # a decodes 1, b computes its other 6, and 1 is left


def step_that_finishes_a() -> int:
    """Load 1. In which step is the last token of a sampled?"""
    return 3  # step 1 samples the first: its whole prompt was computed there


def steps_for_all() -> int:
    """Load 1. After how many steps are all three finished?"""
    return 4  # b in step 3, too; c has its prompt in step 3, its second token in step 4


def step_with_a_preemption() -> int:
    """Load 2. In which step is a request preempted?"""
    return 2  # step 1 fills 2 blocks of each; then d needs a third for position 8, and none is free


def tokens_of_d_when_e_returns() -> int:
    """Load 2. How many tokens has d generated when e is computing again?"""
    return 6  # e needs 2 free blocks for its 8 tokens, and d holds 3 or 4 of the 4 until it is finished


def tokens_to_recompute() -> int:
    """Load 2. How many tokens does e compute in the step in which it goes on?"""
    return 8  # its prompt of 7, and the one token that it had generated: no output is lost, its keys and values are
