"""The executor of several processes on one machine: the driver schedules, one worker process holds each rank.

    driver (scheduler)  --- Step, the same to all --->  worker 0 .. worker n-1      one Unix socket each
                        <--- Sampled, from one of them ---
    worker i  <--- sums and hidden states, torch.distributed --->  worker j        loopback only

Workers are fresh interpreters (no fork: a forked copy of a process with threads can hang), so this works from a
notebook or a pipe as well as from a script. Nobody else can connect: the sockets are pairs that only the two ends know.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue

import minivllm
from minivllm.config import EngineConfig, ModelConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.parallel.plan import Plan
from minivllm.parts import REFERENCE, Parts
from minivllm.worker.errors import WorkerError
from minivllm.worker.messages import (
    Channel,
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
    Stop,
    Stopped,
    decode_reply,
    encode_command,
    part_files,
)
from minivllm.worker.model_runner import ModelRunnerOutput
from minivllm.worker.worker import Capacity, Place, RankReport

logger = logging.getLogger(__name__)

SECONDS_TO_END = 5.0  # for a worker that was told to
SECONDS_FOR_CAUSE = 0.3  # a dead rank makes its peers fail: look who died first


class MultiprocExecutor:
    """One worker process for each rank.

    Raises:
        ValueError: the model cannot be served so; the message says why.
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
        if os.name != "posix":
            raise ValueError(
                "distributed_executor_backend mp needs Linux or macOS: workers inherit Unix sockets"
            )
        files = part_files(parts)  # refused, if they cannot travel, before anything is started
        self.plan = Plan(config.tensor_parallel_size, config.pipeline_parallel_size)
        self.max_concurrent_batches = self.plan.pipeline
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._is_closing = False
        self._pending: deque[Future[ModelRunnerOutput]] = deque()  # steps under way, the oldest first
        self._untold: list[Mapping[str, Sequence[int]]] = []  # sampled, and not yet told to the early stages
        self._replies: list[SimpleQueue[Reply | Exception]] = [SimpleQueue() for _ in self._ranks]
        self._folder = tempfile.TemporaryDirectory(prefix="minivllm-")  # where the ranks meet, in a file
        self._channels: list[Channel] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for _ in self._ranks:
            self._spawn(config.num_ranks)
        self._watcher = threading.Thread(target=self._watch, name="minivllm-workers", daemon=True)
        self._watcher.start()
        rendezvous = f"file://{self._folder.name}/rendezvous"
        capacity = self._start(config, max_model_len, files, replica, rendezvous)
        self.num_blocks, self.num_swap_blocks = capacity.num_blocks, capacity.num_swap_blocks
        self.preemption_costs = capacity.preemption_costs

    @property
    def _ranks(self) -> range:
        return range(self.plan.world_size)

    @property
    def pids(self) -> list[int]:
        """Process id of each rank."""
        return [process.pid for process in self._processes]

    def initialize_kv_cache(self, max_model_len: int) -> None:
        """Allocate the memory behind the blocks, on every rank."""
        self._ask(
            [InitializeKVCache(self.num_blocks, self.num_swap_blocks, max_model_len)] * len(self._ranks)
        )

    def execute_model(self, scheduler_output: SchedulerOutput) -> Future[ModelRunnerOutput]:
        """Send the step to all ranks and return at once."""
        future: Future[ModelRunnerOutput] = Future()
        with self._lock:
            sampled, self._untold = self._untold, []
            if self._error is not None:
                future.set_exception(self._error)
                return future
            self._pending.append(future)
        message = encode_command(Step(scheduler_output, sampled))
        for rank in self._ranks:
            self._send(rank, message)
        return future

    def report(self, clear: bool = False, tracing: bool = False) -> list[RankReport]:
        """What each rank holds and has done. Waits for the steps under way."""
        replies = self._ask([Inspect(clear, tracing)] * len(self._ranks))
        return [reply.report for reply in replies if isinstance(reply, Inspected)]

    def check_health(self) -> None:
        """Raise WorkerError if a worker is gone."""
        if self._error is not None:
            raise self._error

    def shutdown(self) -> None:
        """End the workers; twice is harmless."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        for rank in self._ranks:
            self._send(rank, encode_command(Stop()))
        self._watcher.join(SECONDS_TO_END)
        self._end_processes()
        self._folder.cleanup()

    # -- beginning and end of processes --------------------------------------------------------------------------------

    def _spawn(self, num_local_ranks: int) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([_package_root(), *_python_path()])}
        threads = max(1, (os.cpu_count() or 1) // num_local_ranks)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        process = subprocess.Popen(
            [sys.executable, "-m", "minivllm.worker.worker_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._channels.append(Channel(ours))
        self._processes.append(process)

    def _start(
        self,
        config: EngineConfig,
        max_model_len: int,
        files: dict[str, list[tuple[str, str]]],
        replica: int,
        rendezvous: str,
    ) -> Capacity:
        first = replica * len(self._ranks)
        places = [Place(rank, first + rank, config.num_ranks, rendezvous) for rank in self._ranks]
        with ExitStack() as undo:  # whatever goes wrong, Ctrl-C too, no worker stays behind
            undo.callback(self.shutdown)
            replies = self._ask([Start(config, max_model_len, files, place) for place in places])
            undo.pop_all()
        return Capacity.of_all([reply.capacity for reply in replies if isinstance(reply, Started)])

    def _end_processes(self) -> None:
        for channel in self._channels:
            channel.hang_up()
        self._reap(SECONDS_TO_END)
        for channel in self._channels:
            channel.close()

    def _reap(self, seconds: float) -> None:
        """Wait for the processes to end, and end those that do not."""
        deadline = time.monotonic() + seconds
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- talking -------------------------------------------------------------------------------------------------------

    def _send(self, rank: int, message: bytes) -> None:
        with suppress(OSError):  # the watcher has noticed, or will: it tells everyone who waits
            self._channels[rank].send(message)

    def _ask(self, commands: Sequence[Command]) -> list[Reply]:
        """Send each rank its command and wait for all answers."""
        self.check_health()
        for rank, command in enumerate(commands):
            self._send(rank, encode_command(command))
        answers = [replies.get() for replies in self._replies]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [answer for answer in answers if not isinstance(answer, Exception)]

    # -- the watcher's thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Hand over what the workers say; notice when one is gone, also while nothing runs."""
        with selectors.DefaultSelector() as selector:
            for rank, channel in enumerate(self._channels):
                selector.register(channel.sock, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    reply = self._hear(key.data)
                    if isinstance(reply, Stopped):
                        selector.unregister(key.fileobj)
                    elif reply is None or isinstance(reply, Failed):
                        self._fail(key.data, reply)
                        return
                    else:
                        self._take_in(key.data, reply)

    def _hear(self, rank: int) -> Reply | None:
        """The next thing that a worker says; None when it is gone. What is no reply is a failure, not a silence."""
        message = self._channels[rank].receive()
        try:
            reply = None if message is None else decode_reply(message)
        except ValueError as error:  # pydantic's is one
            return Failed(f"it sent what is no reply: {error}")
        if isinstance(reply, Sampled) and not self._pending:
            return Failed("it sent the output of a step that nobody waits for")
        return reply

    def _take_in(self, rank: int, reply: Reply) -> None:
        if not isinstance(reply, Sampled):
            self._replies[rank].put(reply)
            return
        with self._lock:
            future = self._pending.popleft()
            if self.plan.pipeline > 1:
                self._untold.append(reply.output.sampled_token_ids)
        future.set_result(reply.output)

    def _fail(self, rank: int, failed: Failed | None) -> None:
        """One worker is at its end: end the others, and tell everyone who waits."""
        error: Exception
        if failed is not None and failed.is_users_mistake:
            error = ValueError(failed.reason)
        else:
            error = WorkerError(self._cause(rank, failed))
        for process in self._processes:
            process.kill()
        self._reap(SECONDS_TO_END)
        with self._lock:
            self._error = error
            pending, self._pending = self._pending, deque()
        for future in pending:
            future.set_exception(error)
        for replies in self._replies:
            replies.put(error)
        if not self._is_closing:
            logger.error("%s", error)

    def _cause(self, rank: int, failed: Failed | None) -> str:
        """Who failed first, and how. A rank whose peer was killed fails as well, and may be heard first."""
        time.sleep(SECONDS_FOR_CAUSE)
        killed = [i for i in self._ranks if (code := self._processes[i].poll()) is not None and code < 0]
        if killed:
            first = killed[0]
            name = signal.Signals(-self._processes[first].returncode).name
            return f"worker {first} (process {self.pids[first]}) was ended by {name}; the other workers were ended too"
        if failed is not None:
            return f"worker {rank} failed:\n{failed.reason}"
        code = self._processes[rank].poll()
        return f"worker {rank} (process {self.pids[rank]}) ended with exit status {code}"


def _package_root() -> str:
    """The folder that minivllm was imported from, so that a worker finds the same one."""
    return str(Path(minivllm.__file__).parents[1])


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
