"""The worker's side of the conversation: a command in, a reply out. The same for every way that commands can come."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from minivllm.config import load_model_config
from minivllm.parallel.distributed import disconnect
from minivllm.worker.messages import (
    Command,
    Done,
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
)
from minivllm.worker.worker import Worker


class CommandHandler:
    """A Worker that is told what to do."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._is_running = False  # before the first step, a ValueError is about what the user asked for

    def answer(self, command: Command) -> Reply | None:
        """`handle`, but what goes wrong is an answer, too: the driver raises it there."""
        self._is_running = self._is_running or isinstance(command, Step)
        try:
            return self.handle(command)
        except Exception as error:  # noqa: BLE001  told to the driver
            is_mistake = isinstance(error, ValueError) and not self._is_running
            return Failed(str(error) if is_mistake else traceback.format_exc(), is_mistake)

    def handle(self, command: Command) -> Reply | None:
        """Do it. None: there is nothing to say (another rank answers for all)."""
        if isinstance(command, Start):
            model_config = load_model_config(command.config)
            self._worker = Worker(
                command.config, model_config, command.max_model_len, command.parts, command.place
            )
            return Started(self._worker.capacity)
        assert self._worker is not None, "a worker is started first"
        if isinstance(command, InitializeKVCache):
            self._worker.initialize_kv_cache(
                command.num_blocks, command.num_swap_blocks, command.max_model_len
            )
            return Done()
        if isinstance(command, Step):
            output = self._worker.execute_model(command.scheduler_output, command.sampled)
            return Sampled(output) if self._worker.is_output_rank else None
        assert isinstance(command, Inspect)
        return Inspected(self._worker.report(command.clear, command.tracing))


def run_commands(
    receive: Callable[[], Command], reply: Callable[[Reply], None], handler: CommandHandler
) -> None:
    """Obey until Stop, or until something goes wrong."""
    while not isinstance(command := receive(), Stop):
        answer = handler.answer(command)
        if answer is not None:
            reply(answer)
        if isinstance(answer, Failed):
            return
    disconnect()
    reply(Stopped())
