"""BodyLimit and HeaderLimit: what is refused before any of it is parsed. Plain ASGI layers: streams pass untouched."""

from __future__ import annotations

import asyncio
import json
import re
from email.message import Message as Header

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minivllm.serve.errors import error_body, error_response

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class BodyLimit:
    """Answers 413 to a body of more than `max_bytes`, 408 to a slow one, and 400 to one that does not say it is JSON.

    Asking for JSON is also what keeps other web pages out: a browser sends `application/json` across
    origins only after a preflight, which this server does not grant.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through with its body read, or answer 400 or 413."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self._max_bytes:
            await self._refuse_size(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(receive)
        except TimeoutError:
            message = f"The body did not arrive within {self._seconds:g} seconds."
            headers = {"Connection": "close"}
            await error_response(408, error_body(408, message), headers)(scope, receive, send)
            return
        if body is None:
            await self._refuse_size(scope, receive, send)
        elif body and not _is_json(headers.get(b"content-type", b"")):
            await _refuse("The body must be JSON, sent with Content-Type: application/json.")(
                scope, receive, send
            )
        elif not _is_utf8(body):
            await _refuse("The body must be UTF-8 text, as JSON is.")(scope, receive, send)
        elif _holds_half_characters(body):
            message = "The body holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no text."
            await _refuse(message)(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, or None as soon as it is too large; a client that leaves ends it early."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(chunks)
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_bytes:
                return None
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _refuse_size(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"The body is larger than the {self._max_bytes} bytes that this server accepts."
        await error_response(413, error_body(413, message))(scope, receive, send)


class HeaderLimit:
    """Answers 431 to a request of more than `max_count` headers. (Their size is bounded by uvicorn.)"""

    def __init__(self, app: ASGIApp, max_count: int) -> None:
        self._app = app
        self._max_count = max_count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 431."""
        if scope["type"] == "http" and len(scope["headers"]) > self._max_count:
            message = (
                f"The request has {len(scope['headers'])} headers; at most {self._max_count} are accepted."
            )
            await error_response(431, error_body(431, message))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refuse(message: str) -> ASGIApp:
    return error_response(400, error_body(400, message, type="Bad Request"))


def _is_json(content_type: bytes) -> bool:
    header = Header()
    header["content-type"] = content_type.decode("latin-1")
    kind = header.get_content_type()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _is_utf8(body: bytes) -> bool:
    """json.loads would guess at other encodings, and let halves of surrogate pairs through, spelled as bytes."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _holds_half_characters(body: bytes) -> bool:
    """JSON can spell half of a surrogate pair; such a string can be neither tokenized nor sent back."""
    if not _SURROGATE.search(body):
        return False
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False  # no JSON at all, which whoever parses it will say
    return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one piece, then whatever else arrives (the disconnect)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
