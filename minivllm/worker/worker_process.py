"""`python -m minivllm.worker.worker_process FD`: one rank as a process, started by MultiprocExecutor.

FD is the number of an inherited socket, whose other end the driver holds. When that end closes, for whatever reason,
this process ends too, also in the middle of a step: no worker outlives its driver.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from queue import SimpleQueue

from minivllm.worker.command_loop import CommandHandler, run_commands
from minivllm.worker.messages import Channel, Command, decode_command, encode_reply


def main() -> None:
    """Serve the driver until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which ends us
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    commands: SimpleQueue[Command] = SimpleQueue()
    threading.Thread(target=_read, args=(channel, commands), daemon=True).start()
    while True:  # until the driver hangs up: `_read` ends the process
        run_commands(commands.get, lambda reply: channel.send(encode_reply(reply)), CommandHandler())


def _read(channel: Channel, commands: SimpleQueue[Command]) -> None:
    """Take messages as they come, so that the driver is never held up, and the end is noticed at once."""
    try:
        while (message := channel.receive()) is not None:
            commands.put(decode_command(message))
    except ValueError:  # no command: end, instead of leaving the driver to wait for an answer
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
