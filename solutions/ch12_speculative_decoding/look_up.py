"""Exercise 12.1: Draft from the text itself."""

from __future__ import annotations

import numpy as np


def look_up(token_ids: np.ndarray, shortest: int, longest: int, num_drafts: int) -> list[int]:
    """What followed the last occurrence of the longest n-gram that `token_ids` [L] end with; [] if there is none.

    An occurrence that `num_drafts` tokens follow is preferred to a later one that fewer follow.
    """
    ends = (
        np.flatnonzero(token_ids[:-1] == token_ids[-1]) + 1
    )  # [m] behind each earlier one of the last token
    length = 1
    while length < longest and len(longer := _longer_matches(token_ids, ends, length + 1)):
        ends, length = longer, length + 1
    if not len(ends) or length < shortest:
        return []
    enough = ends[ends + num_drafts <= len(token_ids)]
    start = int(enough[-1] if len(enough) else ends[0])
    found: list[int] = token_ids[start : start + num_drafts].tolist()
    return found


def _longer_matches(token_ids: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Those of `ends`, each behind a match of length - 1 tokens, where one more token matches."""
    ends = ends[ends >= length]
    return ends[token_ids[ends - length] == token_ids[-length]] if len(ends) else ends
