"""Server-sent events: how a stream of JSON chunks is framed, ended, and given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from minivllm.outputs import RequestOutput
from minivllm.request_stream import RequestStream
from minivllm.serve.backend import Backend, Job, check_output
from minivllm.serve.errors import error_of

DONE = b"data: [DONE]\n\n"
COMMENT = b": still here\n\n"
# For the reference of a route whose answer may also be a stream.
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def json_response(body: BaseModel) -> Response:
    """A whole answer as JSON."""
    return Response(body.model_dump_json(), media_type="application/json")


def event(chunk: BaseModel) -> bytes:
    """One chunk as a server-sent event; fields that were not set are left out."""
    return b"data: " + chunk.model_dump_json(exclude_unset=True).encode() + b"\n\n"


class EventStream(StreamingResponse):
    """The response that carries chunks; `close` is called however it ends, even before its first chunk.

    An error after the first chunk can no longer change the status: it is sent as one event of its own. The
    last event is always [DONE]. After `keep_alive` seconds of silence a comment is sent, which clients ignore and
    proxies take for life; 0 = never.
    """

    def __init__(
        self, chunks: AsyncIterator[BaseModel], close: Callable[[], None], keep_alive: float = 0.0
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        events = _framed(chunks)
        if keep_alive:
            events = _with_comments(events, keep_alive)
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; a client that leaves cancels it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def event_stream(backend: Backend, chunks: AsyncIterator[BaseModel], job: Job) -> EventStream:
    """The stream of a job, which is aborted when the stream ends early."""
    return EventStream(chunks, job.abort, backend.settings.sse_keep_alive_interval)


async def _framed(chunks: AsyncIterator[BaseModel]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield event(chunk)
    except Exception as error:  # noqa: BLE001  told to the client; error_of logs what is our fault
        _, body = error_of(error)
        yield b"data: " + json.dumps(body).encode() + b"\n\n"
    yield DONE


async def _with_comments(events: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """`events`, with a comment whenever none comes for so long."""
    iterator = aiter(events)
    upcoming = asyncio.ensure_future(anext(iterator))
    try:
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=seconds)
            if not done:
                yield COMMENT
                continue
            try:
                made = upcoming.result()
            except StopAsyncIteration:
                return
            yield made
            upcoming = asyncio.ensure_future(anext(iterator))
    finally:
        upcoming.cancel()


async def merged(streams: Sequence[RequestStream]) -> AsyncIterator[tuple[int, RequestOutput]]:
    """The outputs of several requests as they come, each with the index of its request.

    Raises:
        Exception: the first error of any of them.
    """
    queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue()

    async def pump(index: int, stream: RequestStream) -> None:
        try:
            async for output in stream:
                check_output(output)
                assert isinstance(output, RequestOutput)
                queue.put_nowait((index, output))
            queue.put_nowait((index, None))
        except Exception as error:  # noqa: BLE001  raised again below, in the task that asked
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        num_open = len(tasks)
        while num_open:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
