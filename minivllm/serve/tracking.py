"""RequestTracker: what is known of every HTTP request: its id, its time, how it ended, how many are under way."""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minivllm.serve.http_metrics import HttpMetrics
from minivllm.serve.logs import REQUEST_ID
from minivllm.serve.paths import route_path

logger = logging.getLogger(__name__)
_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_CLIENT_GONE = 499


@dataclass
class ServerLoad:
    """How many requests for the engine are being answered."""

    num_requests: int = 0


@dataclass
class _Answer:
    status: int = 0  # 0 = none was sent
    num_bytes: int = 0
    started: float = field(default_factory=time.perf_counter)


class RequestTracker:
    """The outermost layer. A request's id is the client's X-Request-Id if it is short and printable, else a new one."""

    def __init__(
        self, app: ASGIApp, metrics: HttpMetrics, load: ServerLoad, *, log_requests: bool, send_ids: bool
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._load = load
        self._log_requests = log_requests
        self._send_ids = send_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, and note what comes back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer()
        request_id = _request_id(scope)
        token = REQUEST_ID.set(request_id)
        is_work = int(scope["method"] == "POST" and route_path(scope).startswith("/v1/"))
        self._load.num_requests += is_work

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                if self._send_ids:
                    headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                    message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                answer.num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._load.num_requests -= is_work
            self._note(scope, answer)
            REQUEST_ID.reset(token)

    def _note(self, scope: Scope, answer: _Answer) -> None:
        seconds = time.perf_counter() - answer.started
        status = answer.status or _CLIENT_GONE
        handler = (
            getattr(scope.get("route"), "path", None) or "none"
        )  # a template, never what a stranger typed
        length = dict(scope["headers"]).get(b"content-length", b"0")
        num_in = int(length[:18]) if length.isdigit() else 0
        self._metrics.note(scope["method"], handler, status, seconds, num_in, answer.num_bytes)
        if self._log_requests:
            fields = {
                "method": scope["method"],
                "handler": handler,
                "status": status,
                "milliseconds": round(1000 * seconds, 1),
                "bytes_in": num_in,
                "bytes_out": answer.num_bytes,
            }
            text = " ".join(f"{name}={value}" for name, value in fields.items())
            logger.info("request %s", text, extra={"fields": fields})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode("ascii"))
    return uuid.uuid4().hex
