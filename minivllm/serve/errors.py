"""Errors in OpenAI's shape, {"error": {"message", "type", "param", "code"}}, for all that can go wrong.

A message is one sentence for the person who sent the request. It never carries paths or addresses of this
machine and has a bounded length; what a developer needs goes to the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minivllm.async_engine import EngineDeadError
from minivllm.core.scheduler import QueueFullError

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 1000
PLACES = ("body", "query")  # where the framework says that a field was found
_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    431: "RequestTooLargeError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
}
_POSIX_PATH = re.compile(r"(?<![\w./:-])(?<!route )/(?:[\w.+@-]+/)+[\w.+@-]*")
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\[^\s'\"]+")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_LEADING_FIELD = re.compile(r"^`?([a-z][a-z_]*)\b")

_ONE_WORD_FIELDS = frozenset(
    {
        "documents",
        "functions",
        "grammar",
        "input",
        "dimensions",
        "logprobs",
        "messages",
        "n",
        "prompt",
        "seed",
        "stop",
        "stream",
        "suffix",
        "temperature",
        "tools",
    }
)


class APIError(Exception):
    """An answer that is not 200: raise it anywhere below a route.

    Args:
        status: the HTTP status, also sent as `code`.
        message: one sentence; scrubbed and cut here.
        param: the request field it is about.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param=param)


def bad_request(message: str, param: str | None = None) -> APIError:
    """400; without `param` the message's first word is taken when it looks like a field's name."""
    return APIError(400, message, param=param or _field_named_by(message))


def _field_named_by(message: str) -> str | None:
    match = _LEADING_FIELD.match(message)
    return match[1] if match and ("_" in match[1] or match[1] in _ONE_WORD_FIELDS) else None


def error_body(
    status: int, message: str, *, param: str | None = None, type: str | None = None
) -> dict[str, Any]:
    """The JSON body of an error."""
    kind = type or _TYPES.get(status) or HTTPStatus(status).phrase.title().replace(" ", "") + "Error"
    return {"error": {"message": scrub(message), "type": kind, "param": param, "code": status}}


def scrub(message: str) -> str:
    """`message` without file paths and memory addresses, on at most MAX_MESSAGE_CHARS characters."""
    message = message[: 4 * MAX_MESSAGE_CHARS]
    for pattern, word in ((_WINDOWS_PATH, "(path)"), (_POSIX_PATH, "(path)"), (_ADDRESS, "(address)")):
        message = pattern.sub(word, message)
    return message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"


def error_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for whatever went wrong while a request was served."""
    if isinstance(error, APIError):
        return error.status, error.body
    if isinstance(error, (EngineDeadError, QueueFullError)):
        return 503, error_body(503, str(error))
    logger.error("A request failed for a reason of our own.", exc_info=error)
    return 500, error_body(500, "The server failed on this request. Its log says why.")


def error_response(
    status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as a whole response."""
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


def install_error_handlers(app: FastAPI) -> None:
    """Give every error that leaves a route, or finds none, OpenAI's shape."""

    async def on_api_error(_: Request, error: Exception) -> JSONResponse:
        return error_response(*error_of(error))

    async def on_validation_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        message, param = describe_validation(error.errors())
        return error_response(400, error_body(400, message, param=param, type="Bad Request"))

    async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(error.status_code, _framework_error(request, error), error.headers)

    app.add_exception_handler(APIError, on_api_error)
    app.add_exception_handler(EngineDeadError, on_api_error)
    app.add_exception_handler(QueueFullError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(InternalErrors)


class InternalErrors:
    """Answers 500 to what nobody expected, logs it, and keeps the connection.

    (An exception handler for Exception would do so too, but the framework raises the exception once more after it has
    answered, and uvicorn then cuts the connection under the client's next request.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through."""
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # error_of logs it
            if has_started or scope["type"] != "http":
                raise
            await error_response(*error_of(error))(scope, receive, send)


def describe_validation(errors: Sequence[Any]) -> tuple[str, str | None]:
    """One sentence for the first thing wrong with a body, and the field it is about."""
    first = errors[0]
    # a body that may be of several models names the model, too: (body, TokenizeTextRequest, prompt)
    location = [str(part) for part in first["loc"] if part not in PLACES and not str(part)[:1].isupper()]
    if first["type"] == "json_invalid":
        return f"The body is not valid JSON: {first['ctx']['error']} at character {location[0]}.", None
    text = str(first["msg"]).removeprefix("Value error, ")
    if not location and first["type"] != "value_error":
        return "The body must be a JSON object, sent as application/json.", None
    if not location:  # a rule about several fields; its sentence begins with the one to mend
        return text, _field_named_by(text)
    param = location[0]
    return (text if text.startswith(param) else f"{'.'.join(location)}: {text}"), param


def _framework_error(request: Request, error: HTTPException) -> dict[str, Any]:
    if error.status_code == 404:
        return error_body(404, f"This server has no route {request.url.path[:200]}")
    if error.status_code == 405:
        return error_body(405, f"{request.method[:16]} is not allowed on this route.")
    return error_body(error.status_code, str(error.detail))
