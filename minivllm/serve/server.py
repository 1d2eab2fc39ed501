"""The socket, uvicorn, and the end: everything between `create_app` and the operating system."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from minivllm.async_engine import AsyncLLMEngine
from minivllm.serve.connections import TimedH11Protocol
from minivllm.serve.settings import ListenSettings

logger = logging.getLogger(__name__)
GRACE_SECONDS = 1  # for responses to be written once the engine has stopped
BACKLOG = 2048
POLL_SECONDS = 0.05


def bind(listen: ListenSettings) -> socket.socket:
    """Take the port before the model is loaded, so that a port in use is told at once.

    Raises:
        ValueError: it cannot be taken; one sentence.
    """
    if listen.uds is not None:
        return _bind_unix(listen.uds)
    host, port = listen.host or "", listen.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
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


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).exists() and stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)  # left behind by an earlier server
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise ValueError(f"Cannot listen on --uds {path}: {error.strerror or error}.") from error
    return sock


def run_server(
    app: FastAPI,
    engine: AsyncLLMEngine,
    sock: socket.socket,
    listen: ListenSettings,
    log_config: dict[str, Any],
) -> None:
    """Serve until Ctrl-C or SIGTERM; open requests are then ended, and the engine's thread is joined.

    After SIGTERM no connection is accepted, and running requests get `listen.shutdown_timeout` seconds to finish.
    Ctrl-C, or a second SIGTERM, ends them at once.
    """
    config = uvicorn.Config(
        app,
        http=partial(TimedH11Protocol, header_timeout=listen.header_timeout),  # type: ignore[arg-type]
        ws="none",
        log_level=listen.log_level,
        log_config=log_config,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=listen.keep_alive_timeout,
        h11_max_incomplete_event_size=listen.max_incomplete_event_size,
        backlog=BACKLOG,
        server_header=False,
        root_path=listen.root_path,
        ssl_keyfile=listen.ssl_keyfile,
        ssl_certfile=listen.ssl_certfile,
    )
    # uvicorn raises the signal again once it is done; with this handler that is not the end of the process
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _Server(config, engine, listen.shutdown_timeout).run(sockets=[sock])
    except KeyboardInterrupt:
        pass  # Ctrl-C has done what it is for
    finally:
        signal.signal(signal.SIGTERM, previous)
        engine.shutdown(timeout=0.5)
        if listen.uds is not None:
            Path(listen.uds).unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Says where it listens, lets running requests finish, and ends open streams before uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, engine: AsyncLLMEngine, drain_seconds: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._signals: list[int] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            logging.getLogger("uvicorn.error").info(
                "Uvicorn running on %s (Press CTRL+C to quit)", self._address(sock)
            )

    def _address(self, sock: socket.socket) -> str:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return f"unix socket {sock.getsockname()}"
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]" if sock.family == socket.AF_INET6 else host
        return f"{'https' if self.config.is_ssl else 'http'}://{shown}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals.append(sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._signals == [signal.SIGTERM]:
            await self._drain(sockets)
        await asyncio.to_thread(self._engine.shutdown, 0.5)
        await super().shutdown(sockets)

    async def _drain(self, sockets: list[socket.socket] | None) -> None:
        """Accept nothing more and wait for the engine to run dry: until the time is up, or another signal comes."""
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # closes those that are idle, and the others after their answer
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain_seconds
        while self._num_requests() and loop.time() < deadline and self._signals == [signal.SIGTERM]:
            await asyncio.sleep(POLL_SECONDS)
        if num_left := self._num_requests():
            logger.warning("Shutting down with %d requests unfinished.", num_left)

    def _num_requests(self) -> int:
        stats = self._engine.stats
        return stats.num_running_reqs + stats.num_waiting_reqs
