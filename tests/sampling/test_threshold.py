"""Top-k and top-p by a threshold: bit for bit what sorting gives, and the sort is for the rows that need it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm import ops
from minivllm.sampling import sampler
from minivllm.sampling.sampler import FEW, apply_top_k_top_p, cut_by_threshold, greedy_pick

V = 4 * FEW + 7
KINDS = ("normal", "flat", "peaked", "ties", "few allowed", "nothing allowed", "not a number")


def logits_of(kind, seed):
    """[V]"""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(V, generator=generator)
    if kind == "flat":
        return x * 1e-3
    if kind == "peaked":
        return x * 6
    if kind == "ties":
        return (x * 2).round()
    if kind == "few allowed":
        return x.masked_fill(torch.arange(V) % 40 > 0, -math.inf)
    if kind == "nothing allowed":
        return torch.full((V,), -math.inf)
    if kind == "not a number":
        x[seed % V] = math.nan
    return x


ks = st.sampled_from([1, 2, 50, FEW - 1, FEW, FEW + 1, V - 1, V]) | st.integers(1, V)
ps = st.sampled_from([1.0, 1.0, 0.9, 0.5, 1e-8, 1 - 1e-7]) | st.floats(1e-6, 1.0)
rows = st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16), ks, ps)


@settings(max_examples=200, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=5), with_k=st.booleans(), with_p=st.booleans())
def test_it_keeps_what_sorting_keeps(batch, with_k, with_p):
    logits = torch.stack([logits_of(kind, seed) for kind, seed, _, _ in batch])
    top_k = torch.tensor([k for _, _, k, _ in batch]) if with_k else None
    top_p = torch.tensor([p for *_, p in batch]) if with_p or not with_k else None
    before = logits.clone()
    expected, got = apply_top_k_top_p(logits, top_k, top_p), cut_by_threshold(logits, top_k, top_p)
    assert torch.equal(got.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(before.nan_to_num(7.0), logits.nan_to_num(7.0))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_what_rounding_could_decide_is_sorted(share):
    """Equal tokens, whose probabilities add up to top_p exactly."""
    logits = torch.full((1, V), -math.inf)
    logits[0, 3:11] = torch.arange(8) * 1e-9
    top_p = torch.tensor([share])
    assert torch.equal(cut_by_threshold(logits, None, top_p), apply_top_k_top_p(logits, None, top_p))


def test_only_rows_that_need_it_are_sorted(monkeypatch):
    sorted_rows = []

    def watched(logits, top_k, top_p):
        sorted_rows.append(len(logits))
        return apply_top_k_top_p(logits, top_k, top_p)

    monkeypatch.setattr(sampler, "apply_top_k_top_p", watched)
    logits = torch.stack([logits_of(kind, 5) for kind in ("peaked", "flat", "peaked", "normal")])
    cut_by_threshold(logits, torch.full((4,), 50), None)
    cut_by_threshold(logits, torch.full((4,), 50), torch.full((4,), 0.93))
    assert sorted_rows == []
    cut_by_threshold(logits, None, torch.tensor([0.93, 0.93, 1.0, 1.0]))
    assert sorted_rows == [1]  # the flat row keeps more than FEW


@settings(max_examples=50)
@given(seed=st.integers(0, 2**16), kind=st.sampled_from(KINDS))
def test_the_best_token(seed, kind):
    logits = torch.stack([logits_of(kind, seed), logits_of("ties", seed)])
    assert torch.equal(ops.argmax(logits), greedy_pick(logits))
    assert torch.equal(ops.argmax(logits.double()), greedy_pick(logits))
