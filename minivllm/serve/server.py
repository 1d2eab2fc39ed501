"""The socket, uvicorn, and the end: everything between `create_app` and the operating system."""

from __future__ import annotations

import asyncio
import copy
import logging
import signal
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from minivllm.async_engine import AsyncLLMEngine

GRACE_SECONDS = 1  # for open streams to end after Ctrl-C
BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded, so that a port in use is told at once.

    Raises:
        ValueError: it cannot be taken; one sentence.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ValueError(f"--host {host} --port {port} is no address to listen on: {error}.") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ValueError(
            f"Cannot listen on {host} port {port}: {error.strerror}. Stop what uses it, or choose another --port."
        ) from error
    return sock


def run_server(app: FastAPI, engine: AsyncLLMEngine, sock: socket.socket, log_level: str) -> None:
    """Serve until Ctrl-C or SIGTERM; open requests are then ended, and the engine's thread is joined."""
    config = uvicorn.Config(
        app,
        log_level=log_level,
        log_config=_log_config(),
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
        server_header=False,
    )
    # uvicorn raises the signal again once it is done; with this handler that is not the end of the process
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _Server(config, engine).run(sockets=[sock])
    except KeyboardInterrupt:
        pass  # Ctrl-C has done what it is for
    finally:
        signal.signal(signal.SIGTERM, previous)
        engine.shutdown(timeout=0.5)


class _Server(uvicorn.Server):
    """Says where it listens, and ends open streams before uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, engine: AsyncLLMEngine) -> None:
        super().__init__(config)
        self._engine = engine

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            host, port = sock.getsockname()[:2]
            shown = f"[{host}]" if sock.family == socket.AF_INET6 else host
            logging.getLogger("uvicorn.error").info(
                "Uvicorn running on http://%s:%d (Press CTRL+C to quit)", shown, port
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._engine.shutdown, 0.5)
        await super().shutdown(sockets)


class _HideStatus(logging.Filter):
    """Keeps the page's own status requests, one each second, out of the access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args
        return not (isinstance(arguments, tuple) and len(arguments) > 2 and arguments[2] == "/status")


def _log_config() -> dict[str, Any]:
    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"hide_status": {"()": _HideStatus}}
    config["handlers"]["access"]["filters"] = ["hide_status"]
    config["loggers"]["minivllm"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
