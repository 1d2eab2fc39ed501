"""The executor of Ray: one actor for each rank, on whichever nodes of a Ray cluster have room.

Ray is the one exception to "nothing is unpickled": it pickles by nature, so whoever can reach its ports can run code.
It is off by default, an extra (`pip install "minivllm[ray]"`), and only for clusters whose every user is trusted. What
we hand to it are the same JSON messages, as bytes.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Lock
from typing import Any

import torch

from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.parallel.plan import Plan
from minivllm.parts import REFERENCE, Parts
from minivllm.worker.command_loop import CommandHandler
from minivllm.worker.errors import WorkerError
from minivllm.worker.messages import (
    Command,
    Failed,
    InitializeKVCache,
    Inspect,
    Inspected,
    Reply,
    Sampled,
    Start,
    Started,
    Step,
    decode_command,
    decode_reply,
    encode_command,
    encode_reply,
    part_files,
)
from minivllm.worker.model_runner import ModelRunnerOutput
from minivllm.worker.worker import Capacity, Place, RankReport

PING_SECONDS = 5.0


class RayWorker:
    """One rank, as an actor."""

    def __init__(self) -> None:
        self._handler = CommandHandler()

    def address(self) -> tuple[str, int]:
        """This node, and a port that is free on it."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def ping(self) -> None:
        """Answer, to show that one can."""

    def obey(self, message: bytes) -> bytes | None:
        """One command in, one reply out."""
        reply = self._handler.answer(decode_command(message))
        return None if reply is None else encode_reply(reply)


class RayExecutor:
    """The driver's view of the actors.

    Raises:
        ValueError: Ray is not installed, or the cluster has no room.
        WorkerError: a worker failed for another reason.
    """

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        max_model_len: int,
        parts: Parts = REFERENCE,
        replica: int = 0,
    ) -> None:
        self._ray = _load_ray()
        if not self._ray.is_initialized():
            self._ray.init(log_to_driver=False)
        self.plan = Plan(config.tensor_parallel_size, config.pipeline_parallel_size)
        self.max_concurrent_batches = self.plan.pipeline
        self._error: Exception | None = None
        self._lock = Lock()
        self._untold: list[Mapping[str, Sequence[int]]] = []  # sampled, and not yet told to the early stages
        self._collector = ThreadPoolExecutor(1)  # one, so that steps are taken in in their order
        self._actors: list[Any] = []
        self._place_actors(uses_gpu=config.device != "cpu" and torch.cuda.is_available())
        capacity = self._start(config, max_model_len, parts)
        self.num_blocks, self.num_swap_blocks = capacity.num_blocks, capacity.num_swap_blocks
        self.preemption_costs = capacity.preemption_costs

    def initialize_kv_cache(self, max_model_len: int) -> None:
        """Allocate the memory behind the blocks, on every rank."""
        self._ask(
            [InitializeKVCache(self.num_blocks, self.num_swap_blocks, max_model_len)] * len(self._actors)
        )

    def execute_model(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        """Send the step to all ranks and return at once."""
        with self._lock:
            sampled, self._untold = self._untold, []
        return self._collector.submit(
            self._take_in, self._send([Step(scheduler_output, sampled)] * len(self._actors))
        )

    def report(self, clear: bool = False, tracing: bool = False) -> list[RankReport]:
        """What each rank holds and has done."""
        replies = self._ask([Inspect(clear, tracing)] * len(self._actors))
        return [reply.report for reply in replies if isinstance(reply, Inspected)]

    def check_health(self) -> None:
        """Raise WorkerError if an actor is gone. Asked while nothing runs, so each answers at once."""
        if self._error is None:
            self._collect([actor.ping.remote() for actor in self._actors], PING_SECONDS)
        if self._error is not None:
            raise self._error

    def shutdown(self) -> None:
        """End the actors; Ray itself goes on."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        self._collector.shutdown(wait=False)

    def _place_actors(self, uses_gpu: bool) -> None:
        """Ask Ray for one place for each rank; it would wait for ever for places that do not exist."""
        room = self._ray.cluster_resources()
        kind = "GPU" if uses_gpu else "CPU"
        if room.get(kind, 0) < self.plan.world_size:
            raise ValueError(
                f"the parallel sizes ask for {self.plan.world_size} ranks, and the Ray cluster has "
                f"{int(room.get(kind, 0))} {kind}s: lower the sizes, or add nodes"
            )
        actor = self._ray.remote(num_cpus=1, num_gpus=1 if uses_gpu else 0)(RayWorker)
        self._actors = [actor.remote() for _ in range(self.plan.world_size)]

    def _start(self, config: EngineConfig, max_model_len: int, parts: Parts) -> Capacity:
        with ExitStack() as undo:  # whatever goes wrong, Ctrl-C too, no actor stays behind
            undo.callback(self.shutdown)
            addresses = self._collect([actor.address.remote() for actor in self._actors])
            on_node = Counter(ip for ip, _ in addresses)
            ip, port = addresses[0]
            # Ray shows each actor its own GPU only, as number 0: the local rank is 0 everywhere.
            places = [
                Place(rank, 0, on_node[addresses[rank][0]], f"tcp://{ip}:{port}")
                for rank in range(self.plan.world_size)
            ]
            files = part_files(parts)
            replies = self._ask([Start(config, max_model_len, files, place) for place in places])
            undo.pop_all()
        return Capacity.of_all([reply.capacity for reply in replies if isinstance(reply, Started)])

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        messages: dict[int, bytes] = {}  # the same command to all is encoded once
        for command in commands:
            messages.setdefault(id(command), encode_command(command))
        return [
            actor.obey.remote(messages[id(command)])
            for actor, command in zip(self._actors, commands, strict=True)
        ]

    def _ask(self, commands: Sequence[Command]) -> list[Reply]:
        return [decode_reply(answer) for answer in self._collect(self._send(commands))]

    def _take_in(self, references: Sequence[Any]) -> ModelRunnerOutput:
        """The output rank's answer, once all have answered."""
        reply = decode_reply(self._collect(references)[self.plan.output_rank])
        assert isinstance(reply, Sampled)
        if self.plan.pipeline > 1:
            with self._lock:
                self._untold.append(reply.output.sampled_token_ids)
        return reply.output

    def _collect(self, references: Sequence[Any], seconds: float | None = None) -> list[Any]:
        """All answers; the first that is an error ends the others, which may wait for that rank."""
        if self._error is not None:
            raise self._error
        waiting = list(references)
        try:
            while waiting:
                done, waiting = self._ray.wait(waiting, num_returns=1, timeout=seconds)
                if not done:
                    raise WorkerError(f"a worker has not answered for {seconds} seconds")
                self._check(self._ray.get(done[0]))
            answers: list[Any] = self._ray.get(list(references))
        except (self._ray.exceptions.RayError, WorkerError, ValueError) as error:
            is_ours = isinstance(error, (WorkerError, ValueError))
            self._error = error if is_ours else WorkerError(f"a worker is gone: {str(error).splitlines()[0]}")
            for actor in self._actors:
                self._ray.kill(actor)
            raise self._error from error
        return answers

    def _check(self, answer: Any) -> None:
        if isinstance(answer, bytes) and isinstance(failed := decode_reply(answer), Failed):
            if failed.is_users_mistake:
                raise ValueError(failed.reason)
            raise WorkerError(f"a worker failed:\n{failed.reason}")


def _load_ray() -> Any:
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise ValueError('distributed_executor_backend ray needs Ray: pip install "minivllm[ray]"') from error
    return ray
