"""Prompt look-up against the same in plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.spec_decode.ngram_proposer import look_up


def by_loops(tokens, shortest, longest, num_drafts):
    """Try the longest end first; of its occurrences the last one that enough tokens follow, else the first."""
    for length in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        ends = [i for i in range(length, len(tokens)) if tokens[i - length : i] == tokens[-length:]]
        enough = [i for i in ends if len(tokens) - i >= num_drafts]
        if ends:
            start = enough[-1] if enough else ends[0]
            return tokens[start : start + num_drafts]
    return []


@given(
    tokens=st.lists(st.integers(1, 3), min_size=1, max_size=20),
    shortest=st.integers(1, 4),
    more=st.integers(0, 3),
    num_drafts=st.integers(1, 5),
)
def test_as_by_loops(tokens, shortest, more, num_drafts):
    found = look_up(np.array(tokens), shortest, shortest + more, num_drafts)
    assert found == by_loops(tokens, shortest, shortest + more, num_drafts)


@pytest.mark.parametrize(
    ("tokens", "shortest", "longest", "num_drafts", "drafts"),
    [
        ([1, 2, 3, 4, 1, 2], 1, 3, 2, [3, 4]),  # what followed 1 2
        ([1, 2, 9, 5, 2], 2, 3, 2, []),  # 2 alone is too short a match
        ([1, 2, 8, 1, 2, 9, 7, 1, 2], 1, 3, 2, [9, 7]),  # the later of two occurrences
        ([7, 7, 7, 7], 1, 1, 2, [7, 7]),  # behind the last one only one token follows
        (
            [3, 1, 2, 8, 8, 9, 2, 5, 5, 1, 2],
            1,
            3,
            2,
            [8, 8],
        ),  # the longer match, though a shorter one is nearer
        ([5], 1, 3, 4, []),
    ],
)
def test_cases(tokens, shortest, longest, num_drafts, drafts):
    assert look_up(np.array(tokens), shortest, longest, num_drafts) == drafts
