"""Exercise 8.1: Predict two schedules. (predict, about 10 minutes)

Two small loads, first come first served, chunked prefill, no prefix caching. Draw a line for each
request and a column for each step, and write into each cell how many tokens are computed. Then let
each function return its number.

Load 1: a budget of 8 tokens a step, room for everybody. Three requests wait, in this order:
  a (prompt 5, answer 3)    b (prompt 9, answer 2)    c (prompt 2, answer 2)

Load 2: a budget of 16 tokens a step, 4 blocks of 4 tokens in all. Two requests wait, in this order:
  d (prompt 8, answer 6)    e (prompt 7, answer 6)

Steps count from 1. A step that computes the last known token of a request samples its next one.
Whoever has sampled the whole answer is finished.

Check: python -m minivllm.course check 8.1     (or: python -m pytest exercises/ch08_continuous_batching/predict.py)
Stuck: python -m minivllm.course hint 8.1
"""

from __future__ import annotations


def tokens_of_b_in_step_1() -> int:
    """Load 1. How many tokens of b does step 1 compute?"""
    raise NotImplementedError("exercise 8.1: tokens_of_b_in_step_1")


def tokens_of_c_in_step_2() -> int:
    """Load 1. How many tokens of c does step 2 compute?"""
    raise NotImplementedError("exercise 8.1: tokens_of_c_in_step_2")


def step_that_finishes_a() -> int:
    """Load 1. In which step is the last token of a sampled?"""
    raise NotImplementedError("exercise 8.1: step_that_finishes_a")


def steps_for_all() -> int:
    """Load 1. After how many steps are all three finished?"""
    raise NotImplementedError("exercise 8.1: steps_for_all")


def step_with_a_preemption() -> int:
    """Load 2. In which step is a request preempted?"""
    raise NotImplementedError("exercise 8.1: step_with_a_preemption")


def tokens_of_d_when_e_returns() -> int:
    """Load 2. How many tokens has d generated when e is computing again?"""
    raise NotImplementedError("exercise 8.1: tokens_of_d_when_e_returns")


def tokens_to_recompute() -> int:
    """Load 2. How many tokens does e compute in the step in which it goes on?"""
    raise NotImplementedError("exercise 8.1: tokens_to_recompute")
