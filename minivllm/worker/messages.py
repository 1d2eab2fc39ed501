"""What the driver and its workers say to one another: dataclasses, which travel as JSON.

JSON, because reading it can do nothing but make values: unpickling what comes out of a socket can run code. pydantic
checks every value against the type hints on arrival. Tensors never travel this way; ranks send them to one another.

    driver                          worker
    Start               ->
                        <-          Started, or Failed
    InitializeKVCache   ->
                        <-          Done
    Step                ->          (every rank runs it)
                        <-          Sampled, from one rank only
    Inspect             ->
                        <-          Inspected
    Stop                ->
                        <-          Stopped
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.parts import CORE_PARTS, Parts, files_of, parts_from_files
from minivllm.worker.model_runner import ModelRunnerOutput
from minivllm.worker.worker import Capacity, Place, RankReport


@dataclass(frozen=True)
class Start:
    """Load your share of the model."""

    config: EngineConfig
    max_model_len: int
    part_files: Mapping[str, list[tuple[str, str]]]  # part -> (file, name in it), mostly one
    place: Place
    kind: Literal["start"] = "start"

    @property
    def parts(self) -> Parts:
        return parts_from_files(self.part_files)


@dataclass(frozen=True)
class InitializeKVCache:
    """Allocate the memory behind the blocks."""

    num_blocks: int
    num_swap_blocks: int
    max_model_len: int
    kind: Literal["initialize_kv_cache"] = "initialize_kv_cache"


@dataclass(frozen=True)
class Step:
    """Run one step."""

    scheduler_output: SchedulerOutput
    sampled: Sequence[Mapping[str, Sequence[int]]] = ()  # by earlier steps, for stages that do not sample
    kind: Literal["step"] = "step"


@dataclass(frozen=True)
class Inspect:
    """Tell what you hold and have done; see `Worker.report`."""

    clear: bool
    tracing: bool
    kind: Literal["inspect"] = "inspect"


@dataclass(frozen=True)
class Stop:
    """Take leave of your peers and drop the model."""

    kind: Literal["stop"] = "stop"


@dataclass(frozen=True)
class Started:
    """The model is loaded."""

    capacity: Capacity
    kind: Literal["started"] = "started"


@dataclass(frozen=True)
class Done:
    """So it is."""

    kind: Literal["done"] = "done"


@dataclass(frozen=True)
class Sampled:
    """What a step brought."""

    output: ModelRunnerOutput
    kind: Literal["sampled"] = "sampled"


@dataclass(frozen=True)
class Inspected:
    """The answer to Inspect."""

    report: RankReport
    kind: Literal["inspected"] = "inspected"


@dataclass(frozen=True)
class Stopped:
    """The answer to Stop, and the last."""

    kind: Literal["stopped"] = "stopped"


@dataclass(frozen=True)
class Failed:
    """This worker is at its end."""

    reason: str
    is_users_mistake: bool = field(default=False)  # then the reason is one sentence, else a traceback
    kind: Literal["failed"] = "failed"


Command = Start | InitializeKVCache | Step | Inspect | Stop
Reply = Started | Done | Sampled | Inspected | Stopped | Failed
_BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")], config=_BYTES)
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")], config=_BYTES)


def encode_command(command: Command) -> bytes:
    """Command to JSON."""
    return _COMMAND.dump_json(_slim(command) if isinstance(command, Step) else command)


def decode_command(message: bytes) -> Command:
    """JSON to command."""
    return _COMMAND.validate_json(message)


def encode_reply(reply: Reply) -> bytes:
    """Reply to JSON."""
    return _REPLY.dump_json(reply)


def decode_reply(message: bytes) -> Reply:
    """JSON to reply."""
    return _REPLY.validate_json(message)


def part_files(parts: Parts) -> dict[str, list[tuple[str, str]]]:
    """How a worker's parts travel: as the files that they come from. The driver keeps the control plane's."""
    ours = [name for name in parts.replaced if name not in CORE_PARTS]
    return {name: files_of(getattr(parts, name)) for name in ours}


def _slim(step: Step) -> Step:
    """Without what a worker never reads: the tokens are there once already, and a sibling is the scheduler's matter."""
    scheduler_output = step.scheduler_output
    if not scheduler_output.new_requests:
        return step
    new = [
        replace(one, request=replace(one.request, fork_from=None, output_token_ids=[], spec_token_ids=[]))
        for one in scheduler_output.new_requests
    ]
    return replace(step, scheduler_output=replace(scheduler_output, new_requests=new))


class Channel:
    """Whole messages over a socket between two processes: four bytes of length, then the message."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: bytes) -> None:
        """Send one message. Raises OSError when nobody reads any more."""
        self.sock.sendall(struct.pack(">I", len(message)) + message)

    def receive(self) -> bytes | None:
        """Wait for one message; None when the other side is gone."""
        header = self._read(4)
        return None if header is None else self._read(struct.unpack(">I", header)[0])

    def _read(self, count: int) -> bytes | None:
        pieces = bytearray()
        while len(pieces) < count:
            try:
                piece = self.sock.recv(min(count - len(pieces), 1 << 20))
            except ConnectionError:
                return None
            if not piece:
                return None
            pieces += piece
        return bytes(pieces)

    def hang_up(self) -> None:
        """Both sides read None from here on."""
        with suppress(OSError):  # the other side has gone first
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back."""
        self.sock.close()
