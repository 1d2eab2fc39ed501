"""Requests to the server's routes without a socket: what `python -m minivllm.run_batch` sends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message, Scope


async def post(app: ASGIApp, path: str, body: Any) -> tuple[int, Any]:
    """(status, JSON of the response) of a POST with `body` as JSON; nobody hangs up."""
    content = json.dumps(body).encode()
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ],
        "client": ("batch", 0),
        "server": ("batch", 80),
    }
    to_come: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
    pieces: list[bytes] = []
    status = 500

    async def receive() -> Message:
        if not to_come:
            await asyncio.Event().wait()  # the next message of a client would be that it is gone
        return to_come.pop()

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            pieces.append(message.get("body", b""))

    await app(scope, receive, send)
    return status, json.loads(b"".join(pieces))
