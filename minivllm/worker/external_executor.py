"""The executor of processes that a launcher has started, such as torchrun, on one machine or on several.

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr 10.0.0.1 --master-port 29500 \\
        -m minivllm.serve MODEL --tensor-parallel-size 4 --pipeline-parallel-size 2 \\
        --distributed-executor-backend external_launcher

The same command runs on every node (with its own --node-rank). Rank 0 schedules, and is a worker as well; on all other
ranks building the engine means to work for rank 0 until it stops, and then to exit. In vLLM every rank schedules for
itself, alike; one scheduler is simpler to follow, and lets a server take requests.

Commands travel as JSON in byte tensors over a gloo group of their own. Whoever can reach the master's port and the
ranks' ports can take part: a network for this must be closed to strangers.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from threading import Lock, Thread

import torch
import torch.distributed as dist

from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.parallel.distributed import STEP_TIMEOUT
from minivllm.parallel.plan import Plan
from minivllm.parts import REFERENCE, Parts
from minivllm.worker.command_loop import CommandHandler, run_commands
from minivllm.worker.device import resolve_device
from minivllm.worker.errors import WorkerError
from minivllm.worker.messages import (
    Command,
    InitializeKVCache,
    Inspect,
    Inspected,
    Reply,
    Sampled,
    Start,
    Started,
    Step,
    Stop,
    decode_command,
    decode_reply,
    encode_command,
    encode_reply,
    part_files,
)
from minivllm.worker.model_runner import ModelRunnerOutput
from minivllm.worker.worker import Capacity, Place, RankReport

FOREVER = timedelta(
    days=365
)  # an idle worker waits for a command; a dead driver is noticed by its closed connection
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ExternalLauncherExecutor:
    """Rank 0's view of the launched processes.

    Raises:
        ValueError: not started by a launcher, or with another number of processes than the parallel sizes ask for.
        SystemExit: on the other ranks, when rank 0 has stopped.
    """

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        max_model_len: int,
        parts: Parts = REFERENCE,
    ) -> None:
        self.plan = Plan(config.tensor_parallel_size, config.pipeline_parallel_size)
        self.max_concurrent_batches = self.plan.pipeline
        place = check_launch(config, self.plan)
        device = resolve_device(config.device, place.local_rank)
        _meet("nccl" if device.type == "cuda" else "gloo")
        self._to_workers = _ByteGroup(self.plan.world_size)
        self._to_driver = _ByteGroup(self.plan.world_size)
        self._handler = CommandHandler()
        self._error: Exception | None = None
        if place.rank > 0:
            self._work_for_rank_0()
        self._pending: deque[Future[ModelRunnerOutput]] = deque()
        self._lock = Lock()
        self._untold: list[Mapping[str, Sequence[int]]] = []  # sampled, and not yet told to the early stages
        replies = self._ask(Start(config, max_model_len, part_files(parts), place))
        capacity = Capacity.of_all([reply.capacity for reply in replies if isinstance(reply, Started)])
        self.num_blocks, self.num_swap_blocks = capacity.num_blocks, capacity.num_swap_blocks
        self.preemption_costs = capacity.preemption_costs

    def initialize_kv_cache(self, max_model_len: int) -> None:
        """Allocate the memory behind the blocks, on every rank."""
        self._ask(InitializeKVCache(self.num_blocks, self.num_swap_blocks, max_model_len))

    def execute_model(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        """Send the step to all, and do rank 0's part of it."""
        with self._lock:
            sampled, self._untold = self._untold, []
        step = Step(scheduler_output, sampled)
        future: Future[ModelRunnerOutput] = Future()
        if self._error is not None:
            future.set_exception(self._error)
            return future
        try:
            self._to_workers.broadcast(encode_command(step))
            reply = self._handler.handle(step)
        except RuntimeError as error:  # what torch.distributed raises when a peer is gone
            self._error = WorkerError(f"a step has failed here, or a rank is gone: {error}")
            future.set_exception(self._error)
            return future
        if isinstance(reply, Sampled):
            future.set_result(reply.output)
        else:
            self._wait_for_last_stage(future)
        return future

    def report(self, clear: bool = False, tracing: bool = False) -> list[RankReport]:
        """What each rank holds and has done."""
        return [reply.report for reply in self._ask(Inspect(clear, tracing)) if isinstance(reply, Inspected)]

    def check_health(self) -> None:
        """Raise WorkerError if a rank was found to be gone."""
        if self._error is not None:
            raise self._error

    def shutdown(self) -> None:
        """Let the other ranks exit."""
        if not dist.is_initialized():
            return
        if self._error is None:
            self._to_workers.broadcast(encode_command(Stop()))
        dist.destroy_process_group()

    def _ask(self, command: Command) -> list[Reply]:
        """All ranks' answers, this one's first. Nothing may be under way."""
        self._to_workers.broadcast(encode_command(command))
        mine = self._handler.handle(command)
        assert mine is not None
        others = [decode_reply(self._to_driver.receive(rank)) for rank in range(1, self.plan.world_size)]
        return [mine, *others]

    def _wait_for_last_stage(self, future: Future[ModelRunnerOutput]) -> None:
        """In a thread, so that rank 0 can start the next step meanwhile. One at a time: answers come in order."""
        with self._lock:
            before = self._pending[-1] if self._pending else None
            self._pending.append(future)

        def wait() -> None:
            if before is not None and before.exception() is not None:
                future.set_exception(before.exception())
                return
            try:
                reply = decode_reply(self._to_driver.receive(self.plan.output_rank))
            except RuntimeError as error:
                self._error = WorkerError(f"a step has failed here, or a rank is gone: {error}")
                future.set_exception(self._error)
                return
            assert isinstance(reply, Sampled)
            with self._lock:
                self._untold.append(reply.output.sampled_token_ids)
                self._pending.popleft()
            future.set_result(reply.output)

        Thread(target=wait, daemon=True).start()

    def _work_for_rank_0(self) -> None:
        """Never returns. An error ends the process, at which the launcher ends all the others."""
        rank = int(os.environ["RANK"])

        def receive() -> Command:
            command = decode_command(self._to_workers.broadcast(None))
            if not isinstance(command, Start):
                return command
            here = Place(rank, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
            return Start(command.config, command.max_model_len, command.part_files, here)

        def reply(answer: Reply) -> None:
            if answer.kind == "failed":
                raise SystemExit(f"rank {rank} failed: {answer.reason}")
            if answer.kind != "stopped":
                self._to_driver.send(encode_reply(answer))

        run_commands(receive, reply, self._handler)
        raise SystemExit(0)


def check_launch(config: EngineConfig, plan: Plan) -> Place:
    """Where the launcher has put this process.

    Raises:
        ValueError: there is no launcher, or it has started another number of processes than `config` asks for.
    """
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ValueError(
            "distributed_executor_backend external_launcher needs a launcher such as torchrun, which sets "
            f"{', '.join(missing)}"
        )
    if config.data_parallel_size > 1:
        raise ValueError(
            "data_parallel_size must be 1 with external_launcher: launch each copy by itself, and put a load balancer "
            "in front"
        )
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size != plan.world_size:
        raise ValueError(
            f"the launcher has started {world_size} processes, and tensor_parallel_size {plan.tensor} x "
            f"pipeline_parallel_size {plan.pipeline} asks for {plan.world_size}: they must be equal"
        )
    return Place(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))


def _meet(backend: str) -> None:
    try:
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
    except dist.DistError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the ranks cannot meet at {where} (MASTER_ADDR, MASTER_PORT): {reason} Choose a free port that every node "
            "can reach."
        ) from error


class _ByteGroup:
    """Bytes between ranks, as tensors: first the length, then the content."""

    def __init__(self, world_size: int) -> None:
        self.group = dist.new_group(list(range(world_size)), backend="gloo", timeout=FOREVER)

    def broadcast(self, message: bytes | None) -> bytes:
        """Rank 0 gives the message, the others None; all have it in the end."""
        length = torch.tensor([len(message or b"")])
        dist.broadcast(length, src=0, group=self.group)
        content = _to_tensor(message) if message else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, src=0, group=self.group)
        return message or content.numpy().tobytes()

    def send(self, message: bytes) -> None:
        """To rank 0."""
        dist.send(torch.tensor([len(message)]), dst=0, group=self.group)
        dist.send(_to_tensor(message), dst=0, group=self.group)

    def receive(self, rank: int) -> bytes:
        """At rank 0, from `rank`."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, src=rank, group=self.group)
        content = torch.empty(int(length), dtype=torch.uint8)
        dist.recv(content, src=rank, group=self.group)
        return content.numpy().tobytes()


def _to_tensor(message: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)
