"""How ranks meet: which transport for which device, which interface, which groups. torch.distributed is faked."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from minivllm.parallel import distributed
from minivllm.parallel.distributed import connect, disconnect
from minivllm.parallel.plan import Plan
from minivllm.worker import external_executor

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """What is asked of torch.distributed, in order."""
    asked: list[tuple] = []

    def meet(backend, **options):
        asked.append(
            ("meet", backend, options.get("init_method"), options.get("rank"), options.get("world_size"))
        )

    def new_group(ranks, **options):
        asked.append(("group", *ranks))
        return tuple(ranks)

    monkeypatch.setattr(dist, "init_process_group", meet)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    return asked


@pytest.mark.parametrize(("device", "backend"), [(CPU, "gloo"), (GPU, "nccl")])
def test_gloo_between_cpus_and_nccl_between_gpus(device, backend, calls):
    connect(Plan(2), 1, device, "file:///somewhere")
    assert calls[0] == ("meet", backend, "file:///somewhere", 1, 2)


def test_a_launcher_has_brought_them_together_already(calls):
    connect(Plan(2), 1, CPU)
    assert [call[0] for call in calls] == ["group"]


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_a_launchers_ranks_meet_over_the_transport_of_their_device(backend, calls):
    external_executor._meet(backend)
    assert calls == [("meet", backend, None, None, None)]


def test_every_rank_asks_for_every_group_in_the_same_order(calls):
    """`new_group` is a meeting of all: a rank that leaves one out, or changes the order, waits for ever."""
    asked = []
    for rank in range(6):
        calls.clear()
        connection = connect(Plan(2, 3), rank, CPU, "file:///somewhere")
        asked.append(calls[1:])
        assert (connection.pp.rank, connection.tp.rank) == divmod(rank, 2)
        assert connection.tp.all_reduce.__self__.group == (rank // 2 * 2, rank // 2 * 2 + 1)
    assert asked == [[("group", 0, 1), ("group", 2, 3), ("group", 4, 5)]] * 6


@pytest.mark.parametrize(
    ("rendezvous", "chosen", "expected"),
    [
        ("file:///somewhere", None, "lo"),  # one machine: nobody else can reach the ranks
        ("file:///somewhere", "eth0", "eth0"),  # the user knows better
        ("tcp://10.0.0.1:29500", None, None),  # several machines: loopback would reach none of them
    ],
)
def test_ranks_of_one_machine_talk_over_loopback(rendezvous, chosen, expected, calls, monkeypatch):
    monkeypatch.setattr(distributed.sys, "platform", "linux")
    if chosen is not None:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", chosen)
    connect(Plan(2), 0, CPU, rendezvous)
    assert os.environ.pop("GLOO_SOCKET_IFNAME", None) == expected


def test_neighbours_of_stages(calls, monkeypatch):
    """A rank receives from its twin in the stage before and sends to its twin in the next."""
    said = []
    monkeypatch.setattr(dist, "recv", lambda tensor, src: said.append(("from", src)))
    monkeypatch.setattr(dist, "isend", lambda tensor, dst: said.append(("to", dst)))
    pp = connect(Plan(2, 3), 3, CPU).pp
    assert (pp.is_first, pp.is_last) == (False, False)
    pp.receive(torch.empty(1))
    pp.send(torch.empty(1))
    assert said == [("from", 1), ("to", 5)]


def test_a_tensor_lives_until_it_has_left(calls, monkeypatch):
    """`isend` returns before the bytes are gone: the next send waits for the one before."""
    waited = []

    class Work:
        def __init__(self, tensor):
            self.tensor = tensor

        def wait(self):
            waited.append(self.tensor.item())

    monkeypatch.setattr(dist, "isend", lambda tensor, dst: Work(tensor))
    send = connect(Plan(1, 2), 0, CPU).pp.send
    for number in range(3):
        send(torch.tensor(number))
    assert waited == [0, 1]


def test_a_sum_is_taken_among_the_ranks_of_the_own_stage(calls, monkeypatch):
    def all_reduce(tensor, group):
        assert tensor.is_contiguous() and group == (2, 3)
        tensor *= 10

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    connection = connect(Plan(2, 2), 3, CPU)
    assert connection.tp.all_reduce(torch.tensor([[1, 2], [3, 4]]).T).tolist() == [[10, 30], [20, 40]]
    assert connection.log.count == {"all_reduce": 1} and connection.log.num_bytes == {"all_reduce": 4 * 8}


def test_pieces_are_put_together_in_the_order_of_ranks_along_the_last_dimension(calls, monkeypatch):
    def all_gather(pieces, tensor, group):
        assert tensor.is_contiguous() and group == (0, 1, 2)
        for rank, piece in enumerate(pieces):
            piece.copy_(tensor + 10 * rank)

    monkeypatch.setattr(dist, "all_gather", all_gather)
    connection = connect(Plan(3), 1, CPU)
    gathered = connection.tp.all_gather(torch.tensor([[1, 2], [3, 4]]).T)
    assert gathered.tolist() == [[1, 3, 11, 13, 21, 23], [2, 4, 12, 14, 22, 24]]
    assert connection.log.count == {"all_gather": 1} and connection.log.num_bytes == {"all_gather": 4 * 8}


def test_leaving_without_having_met_is_harmless():
    disconnect()
