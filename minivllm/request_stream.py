"""RequestStream: what one request is answered, piece by piece, on the event loop that asked for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from minivllm.outputs import EmbeddingRequestOutput, RequestOutput

EngineOutput: TypeAlias = "RequestOutput | EmbeddingRequestOutput"
StreamEvent: TypeAlias = "EngineOutput | Exception | None"  # None = admitted


class RequestStream:
    """The outputs of one request, to be iterated on the event loop that asked for them.

    Iteration ends after the finished output. It raises EngineDeadError when the engine dies meanwhile.
    """

    def __init__(self, request_id: str, on_abort: Callable[[RequestStream], None]) -> None:
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self._on_abort = on_abort
        self._admitted: asyncio.Future[None] = self.loop.create_future()
        self._items: deque[EngineOutput | Exception] = deque()
        self._arrival = asyncio.Event()
        self._is_over = False

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> EngineOutput:
        while not self._items:
            if self._is_over:
                raise StopAsyncIteration
            self._arrival.clear()
            await self._arrival.wait()
        item = self._items.popleft()
        if isinstance(item, Exception):
            raise item
        return item

    async def wait_until_admitted(self) -> None:
        """Return once the engine has taken the request.

        Raises:
            ValueError: the engine refused it; the message says why.
            EngineDeadError: there is no engine to take it.
        """
        try:
            await self._admitted
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self) -> None:
        """Give the request up, so that its blocks are freed; nothing happens when it is over already."""
        if not self._is_over:
            self._is_over = True
            self._items.clear()
            self._arrival.set()
            self._on_abort(self)

    def receive(self, event: StreamEvent) -> None:
        """Take what the engine thread sent; runs on the stream's own loop."""
        if self._is_over:
            return
        if event is None:
            self._settle(None)
        elif isinstance(event, Exception):
            self._is_over = True
            if not self._settle(event):
                self._items.append(event)
        else:
            self._items.append(event)
            self._is_over = event.finished
        self._arrival.set()

    def _settle(self, error: Exception | None) -> bool:
        """Answer `wait_until_admitted`; False when it has its answer already."""
        if self._admitted.done():
            return False
        if error is None:
            self._admitted.set_result(None)
        else:
            self._admitted.set_exception(error)
        return True
