"""TimedH11Protocol: uvicorn's HTTP protocol, with an end to the patience for clients that send no request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedH11Protocol(H11Protocol):
    """Closes a connection that has not brought a whole request line and its headers in time.

    Without this a client could hold any number of connections open by sending one byte a minute. How long a body may
    take is BodyLimit's business, and how long an idle connection stays is uvicorn's (`timeout_keep_alive`).
    """

    def __init__(self, *arguments: Any, header_timeout: float, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._header_timeout = header_timeout
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:  # a request has begun
            self._stop_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._start_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(self._header_timeout, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
