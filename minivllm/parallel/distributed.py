"""torch.distributed as the transport between ranks: gloo between CPUs, NCCL between GPUs.

`connect` joins this process to its peers and returns the two values that layers receive. Only tensors travel, never
objects: torch's object collectives pickle, and a pickle can run code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from minivllm.parallel.comm_log import CommLog
from minivllm.parallel.group import PipelineParallel, TensorParallel
from minivllm.parallel.plan import Plan

CONNECT_TIMEOUT = timedelta(seconds=60)  # until all ranks have come
STEP_TIMEOUT = timedelta(minutes=10)  # a rank that waits longer in one collective takes its peers for dead


@dataclass(frozen=True)
class Connection:
    """This rank's place among its peers."""

    tp: TensorParallel
    pp: PipelineParallel
    log: CommLog


def connect(plan: Plan, rank: int, device: torch.device, rendezvous: str | None = None) -> Connection:
    """Meet the other ranks of `plan` and build the groups.

    Args:
        plan: how the model is divided.
        rank: this process, in [0, plan.world_size).
        device: where its tensors live; decides between gloo and NCCL.
        rendezvous: URL of torch.distributed where the ranks find one another; None: they have met already
            (a launcher has called `init_process_group`).
    """
    if rendezvous is not None:
        if rendezvous.startswith("file:"):
            stay_on_this_machine()
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, init_method=rendezvous, rank=rank, world_size=plan.world_size, timeout=STEP_TIMEOUT
        )
    log = CommLog()
    stage, tp_rank = plan.place(rank)
    groups = [
        dist.new_group(ranks, timeout=STEP_TIMEOUT) for ranks in plan.tensor_groups()
    ]  # by all, for each
    tp = TensorParallel(tp_rank, plan.tensor)
    if plan.tensor > 1:
        collectives = _Collectives(groups[stage], plan.tensor, log)
        tp = TensorParallel(tp_rank, plan.tensor, collectives.all_reduce, collectives.all_gather)
    pp = PipelineParallel(stage, plan.pipeline, *_links(rank, plan, log))
    return Connection(tp, pp, log)


def stay_on_this_machine() -> None:
    """Let gloo talk over the loopback interface, which no other machine can reach, unless the user chose one."""
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


def disconnect() -> None:
    """Leave; harmless where nobody has connected."""
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class _Collectives:
    """The two collectives of tensor parallelism, counted."""

    group: dist.ProcessGroup
    size: int
    log: CommLog

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place where the tensor is contiguous."""
        tensor = tensor.contiguous()
        with self.log.measure("all_reduce", tensor):
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """[..., n] of every rank -> [..., size * n]."""
        tensor = tensor.contiguous()
        pieces = [torch.empty_like(tensor) for _ in range(self.size)]
        with self.log.measure("all_gather", tensor):
            dist.all_gather(pieces, tensor, group=self.group)
        return torch.cat(pieces, dim=-1)


def _links(
    rank: int, plan: Plan, log: CommLog
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], object]]:
    """How this rank receives from and sends to its twins in the neighbouring stages."""

    def receive(tensor: Tensor) -> Tensor:
        with log.measure("receive", tensor):
            dist.recv(tensor, src=rank - plan.tensor)
        return tensor

    pending: list[tuple[dist.Work, Tensor]] = []  # a tensor must live until it has left

    def send(tensor: Tensor) -> None:
        """Hand over and go on; the next step's send waits for this one."""
        while pending:
            pending.pop()[0].wait()
        tensor = tensor.contiguous()
        with log.measure("send", tensor):
            work = dist.isend(tensor, dst=rank + plan.tensor)
        if work is not None:
            pending.append((work, tensor))

    return receive, send
