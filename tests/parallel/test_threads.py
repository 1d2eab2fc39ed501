"""Ranks as threads: the sums and pieces of real ranks, and a sentence where real ranks would hang."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.parallel.plan import Plan, share_heads
from minivllm.parallel.threads import Ranks, RanksDisagree


@pytest.mark.parametrize("size", [2, 3, 4])
def test_everybody_gets_the_sum_and_all_pieces(size):
    ranks = Ranks(size)
    pieces = [torch.tensor([[rank, 10.0 * rank]]) for rank in range(size)]
    sums = ranks.run(lambda rank: ranks.tp[rank].all_reduce(pieces[rank]))
    rows = ranks.run(lambda rank: ranks.tp[rank].all_gather(pieces[rank]))
    total = sum(range(size))
    assert [one.tolist() for one in sums] == [[[total, 10 * total]]] * size
    assert [one.tolist() for one in rows] == [[[n for rank in range(size) for n in (rank, 10 * rank)]]] * size
    assert [log.count for log in ranks.logs] == [{"all_reduce": 1, "all_gather": 1}] * size
    assert [log.num_bytes["all_reduce"] for log in ranks.logs] == [8] * size


def test_one_rank_says_nothing():
    ranks = Ranks(1)
    assert ranks.run(lambda rank: ranks.tp[rank].all_reduce(torch.ones(2)).tolist()) == [[1, 1]]
    assert ranks.logs[0].count == {}


def test_stages_hand_on_in_order():
    ranks = Ranks(Plan(tensor=2, pipeline=3))

    def work(rank):
        pp, seen = ranks.pp[rank], []
        for step in range(3):
            x = torch.tensor([100.0 * step + rank]) if pp.is_first else pp.receive(torch.empty(1)) + 10
            seen.append(x.item())
            if not pp.is_last:
                pp.send(x)
        return seen

    expected = [[100 * step + rank % 2 + 10 * (rank // 2) for step in range(3)] for rank in range(6)]
    assert ranks.run(work) == expected


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("all_reduce", "all_gather", r"rank 0 is at all_reduce of \[2\], rank 1 at all_gather of \[2\]"),
        ("all_reduce", None, r"rank 0 is at all_reduce of \[2\], rank 1 at the end"),
        (None, "all_gather", r"rank 0 is at the end, rank 1 at all_gather of \[2\]"),
    ],
)
def test_ranks_that_do_not_say_the_same_are_told(first, second, sentence):
    ranks = Ranks(2)

    def work(rank):
        what = (first, second)[rank]
        return getattr(ranks.tp[rank], what)(torch.ones(2)) if what else None

    with pytest.raises(RanksDisagree, match=sentence):
        ranks.run(work)
    assert ranks.run(lambda rank: ranks.tp[rank].all_reduce(torch.ones(1)).item()) == [2, 2]  # usable again


def test_shapes_have_to_agree():
    ranks = Ranks(2)
    with pytest.raises(
        RanksDisagree, match=r"rank 0 is at all_reduce of \[1\], rank 1 at all_reduce of \[2\]"
    ):
        ranks.run(lambda rank: ranks.tp[rank].all_reduce(torch.ones(rank + 1)))


def test_the_rank_that_failed_is_the_one_that_is_told():
    ranks = Ranks(Plan(2, 2))

    def work(rank):
        if rank == 1:
            raise KeyError("mine")
        if rank < 2:
            return ranks.tp[rank].all_reduce(torch.ones(1))
        return ranks.pp[rank].receive(torch.empty(1))

    with pytest.raises(KeyError, match="mine"):
        ranks.run(work)


def test_waiting_for_a_stage_that_has_ended():
    ranks = Ranks(Plan(1, 2))
    with pytest.raises(RanksDisagree, match="rank 1 waits for rank 0, which has ended"):
        ranks.run(lambda rank: ranks.pp[rank].receive(torch.empty(1)) if rank else None)


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12))
def test_heads_are_shared_so_that_every_query_finds_its_keys(kv_heads, group, size):
    heads = kv_heads * group
    if heads % size or (kv_heads % size and size % kv_heads):
        with pytest.raises(ValueError, match="tensor_parallel_size: num_(attention|key_value)_heads"):
            share_heads(heads, kv_heads, 0, size)
        return
    shares = [share_heads(heads, kv_heads, rank, size) for rank in range(size)]
    held = [head for one in shares for head in range(one.first_head, one.first_head + one.num_heads)]
    assert held == list(range(heads))
    for one in shares:
        for local in range(one.num_heads):
            reads = one.first_kv_head + local // (one.num_heads // one.num_kv_heads)
            assert reads == (one.first_head + local) // group
        assert one.num_kv_heads == max(1, kv_heads // size)
