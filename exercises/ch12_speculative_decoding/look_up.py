"""Exercise 12.1: Draft from the text itself. (implement, about 20 minutes)

A drafter that needs no model. The text ends with some tokens; if the same tokens stood somewhere
before, then what followed there may follow here. `token_ids` is the text so far, prompt and answer,
an array of L integers.

    7 8 9 4 5 7 8            ends with 7 8, which stood at the start; 9 4 5 followed

Of all ends of the text, from `longest` tokens down to `shortest`, the longest that occurred before
counts. If it occurred several times, take the latest occurrence that `num_drafts` tokens follow; if
there is none such, the earliest, which most tokens follow. An occurrence may overlap with the end
itself. Return a list of at most `num_drafts` ints.

`_longer_matches` is written. It may help, and you may do without it.

Check: python -m minivllm.course check 12.1     (or: python -m pytest exercises/ch12_speculative_decoding/look_up.py)
Stuck: python -m minivllm.course hint 12.1
"""

from __future__ import annotations

import numpy as np


def look_up(token_ids: np.ndarray, shortest: int, longest: int, num_drafts: int) -> list[int]:
    """What followed the last occurrence of the longest n-gram that `token_ids` [L] end with; [] if there is none.

    An occurrence that `num_drafts` tokens follow is preferred to a later one that fewer follow.
    """
    raise NotImplementedError("exercise 12.1: look_up")


def _longer_matches(token_ids: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Those of `ends`, each behind a match of length - 1 tokens, where one more token matches."""
    ends = ends[ends >= length]
    return ends[token_ids[ends - length] == token_ids[-length]] if len(ends) else ends
