"""Ranks as threads of one process: the collectives of parallel/distributed.py without a network, for lessons and tests.

It is no faster than one rank, and it is strict: where gloo would hang or mix up two messages, ranks that do not say
the same thing at the same time get a sentence that names both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor

from minivllm.parallel.comm_log import CommLog
from minivllm.parallel.group import PipelineParallel, TensorParallel
from minivllm.parallel.plan import Plan

Result = TypeVar("Result")


class RanksDisagree(RuntimeError):
    """Two ranks are not where they should be together. The message says where they are."""


class Ranks:
    """All ranks of a plan. `run` gives each a thread; `tp[rank]` and `pp[rank]` are what layers receive.

    Args:
        plan: how the model is divided; a number is that many tensor parallel ranks.
    """

    def __init__(self, plan: Plan | int) -> None:
        self.plan = Plan(plan) if isinstance(plan, int) else plan
        self.logs = [CommLog() for _ in range(self.plan.world_size)]
        self.tp: list[TensorParallel] = []
        self.pp: list[PipelineParallel] = []
        self._groups = [_Group(ranks) for ranks in self.plan.tensor_groups()]
        self._mailboxes: list[SimpleQueue[Tensor | None]] = [SimpleQueue() for _ in self.logs]
        for rank in range(self.plan.world_size):
            self._connect(rank)

    def _connect(self, rank: int) -> None:
        stage, place = self.plan.place(rank)
        group, log = self._groups[stage], self.logs[rank]

        def all_reduce(tensor: Tensor) -> Tensor:
            with log.measure("all_reduce", tensor):
                return torch.stack(group.exchange(place, "all_reduce", tensor)).sum(0)

        def all_gather(tensor: Tensor) -> Tensor:
            with log.measure("all_gather", tensor):
                return torch.cat(group.exchange(place, "all_gather", tensor), dim=-1)

        def receive(tensor: Tensor) -> Tensor:
            with log.measure("receive", tensor):
                found = self._mailboxes[rank].get()
            if found is None:
                raise RanksDisagree(f"rank {rank} waits for rank {rank - self.plan.tensor}, which has ended")
            return tensor.copy_(found)

        def send(tensor: Tensor) -> None:
            with log.measure("send", tensor):
                self._mailboxes[rank + self.plan.tensor].put(tensor.clone())

        is_alone = self.plan.tensor == 1
        collectives = () if is_alone else (all_reduce, all_gather)
        self.tp.append(TensorParallel(place, self.plan.tensor, *collectives))
        self.pp.append(PipelineParallel(stage, self.plan.pipeline, receive, send))

    def run(self, work: Callable[[int], Result]) -> list[Result]:
        """`work(rank)` of every rank, side by side.

        Raises:
            RanksDisagree: ranks of a group did not say the same thing at the same time.
            Exception: whatever the work of the first rank that failed has raised.
        """
        results: dict[int, Result] = {}
        errors: dict[int, BaseException] = {}
        arguments = (work, results, errors)
        threads = [
            threading.Thread(target=self._run_one, args=(rank, *arguments), daemon=True)
            for rank in range(self.plan.world_size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._begin_anew()
        causes = [error for error in errors.values() if not isinstance(error, threading.BrokenBarrierError)]
        for error in sorted(causes, key=lambda error: isinstance(error, RanksDisagree)):
            raise error  # what a rank raised itself comes before what others saw of it
        return [results[rank] for rank in range(self.plan.world_size)]

    def _run_one(
        self,
        rank: int,
        work: Callable[[int], Result],
        results: dict[int, Result],
        errors: dict[int, BaseException],
    ) -> None:
        stage, place = self.plan.place(rank)
        group = self._groups[stage]

        def ended(kind: object, error: BaseException | None, trace: object) -> bool:
            if error is not None:
                errors[rank] = error  # `run` raises it again
                group.barrier.abort()
            if stage + 1 < self.plan.pipeline:
                self._mailboxes[rank + self.plan.tensor].put(None)
            return True

        with ExitStack() as stack:
            stack.push(ended)
            results[rank] = work(rank)
            group.exchange(place, "the end", torch.empty(0))

    def _begin_anew(self) -> None:
        for group in self._groups:
            group.barrier.reset()
        for mailbox in self._mailboxes:
            while not mailbox.empty():
                mailbox.get()


class _Group:
    """Where the tensor parallel ranks of one stage meet."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.ranks = ranks
        self.barrier = threading.Barrier(len(ranks))
        self.said: list[tuple[str, Tensor]] = [("", torch.empty(0)) for _ in ranks]

    def exchange(self, place: int, kind: str, tensor: Tensor) -> list[Tensor]:
        """Hand in a tensor and get everybody's, in the order of ranks."""
        self.said[place] = (kind, tensor.clone())
        self.barrier.wait()
        said = list(self.said)
        self.barrier.wait()  # everybody has read: the next message may overwrite
        where = [f"{kind} of {list(tensor.shape)}" if kind != "the end" else kind for kind, tensor in said]
        for rank, other in zip(self.ranks, where, strict=True):
            if other != where[0]:
                raise RanksDisagree(f"rank {self.ranks[0]} is at {where[0]}, rank {rank} at {other}")
        return [tensor for _, tensor in said]
