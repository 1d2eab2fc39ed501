"""gather_logprobs against plain lists, row by row."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minivllm.sampling.logprobs import gather_logprobs

V = 6
logit_rows = st.lists(st.integers(-8, 8).map(lambda i: i / 4), min_size=V, max_size=V)  # often equal
asks = st.tuples(logit_rows, st.integers(0, V - 1), st.integers(-1, V + 2))


@given(st.lists(asks, min_size=1, max_size=5))
def test_each_row_gets_the_chosen_token_its_rank_and_as_many_others_as_it_asks_for(batch):
    logits, chosen, counts = zip(*batch, strict=True)
    entries = gather_logprobs(torch.tensor(logits), torch.tensor(chosen), np.array(counts))
    for entry, values, token, count in zip(entries, logits, chosen, counts, strict=True):
        total = math.log(math.fsum(map(math.exp, values)))
        expected = [value - total for value in values]
        num_wanted = V if count == -1 else min(count, V)
        best = sorted(expected, reverse=True)[:num_wanted]
        assert entry.logprobs == pytest.approx([expected[token], *best], abs=1e-5)
        assert entry.token_ids[0] == token and len(set(entry.token_ids[1:])) == num_wanted
        assert [expected[i] for i in entry.token_ids] == pytest.approx(entry.logprobs, abs=1e-5)
        assert entry.rank == 1 + sum(value > values[token] for value in values)  # equals share a rank
