"""Exercise 1.5: Write the causality test. (write-test, about 20 minutes)

Now you are the grader. You get a function that somebody wrote, attention(query, key, value, scale),
for all heads. Write the check that raises an AssertionError if a later token can change what an
earlier one gets.

You cannot look into the function. You can call it, exchange tokens, and call it again. Your check
has to keep quiet on correct functions, which may differ in the last digits when their input
changes, and to catch nine broken ones. Some let the future in through the keys only, some through
the values, some in one head, some only in longer texts. Give it query [T, H, D] and key, value [T,
K, D], with H a multiple of K; draw them as you like.

Check: python -m minivllm.course check 1.5     (or: python -m pytest exercises/ch01_attention/causality.py)
Stuck: python -m minivllm.course hint 1.5
"""

from __future__ import annotations

import torch

from minivllm.course.extra.ch01_causality import Attention


def check_causality(attention: Attention) -> None:
    """Raise an AssertionError if a later token changes what an earlier one gets.

    Args:
        attention: (query [T, H, D], key [T, K, D], value [T, K, D], scale) -> [T, H, D]; H is a multiple of K. It
            accepts any T >= 1, and two correct ones may differ in the last digits.
    """
    raise NotImplementedError("exercise 1.5: check_causality")
