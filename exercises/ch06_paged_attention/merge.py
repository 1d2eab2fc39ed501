"""Exercise 6.3: Merge two partial states. (implement, about 15 minutes)

Two processors have each walked over a half of a long context. Each has a state of its own, as in
6.2: SoftmaxState(highest, total, acc), taken relative to its own highest score. Make one state of
them, as if a single processor had seen everything.

Who comes first must make no difference, and neither may the order in which three of them are
merged.

Check: python -m minivllm.course check 6.3     (or: python -m pytest exercises/ch06_paged_attention/merge.py)
Stuck: python -m minivllm.course hint 6.3
"""

import torch

from minivllm.attention.blockwise import NOTHING, SoftmaxState


def merge(one: SoftmaxState, other: SoftmaxState) -> SoftmaxState:
    """The state of rows that have seen two disjoint parts of their context, in any order."""
    raise NotImplementedError("exercise 6.3: merge")
