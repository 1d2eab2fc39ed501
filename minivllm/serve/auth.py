"""ApiKeyGuard: with --api-key every route asks for a key, but for the few that paths.py lists."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from minivllm.serve.errors import error_body, error_response
from minivllm.serve.paths import is_open, route_path


class ApiKeyGuard:
    """Answers 401 unless `Authorization: Bearer <key>` carries one of the keys.

    Keys are compared as digests, and with all of them each time: neither the time taken nor the order of
    the keys tells how much of a guess was right.
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401."""
        if scope["type"] == "http" and not self._needs_no_key(scope) and not self._has_key(scope):
            error = error_body(401, "This server asks for an API key: send Authorization: Bearer <key>.")
            response = error_response(401, error, {"WWW-Authenticate": "Bearer"})
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    @staticmethod
    def _needs_no_key(scope: Scope) -> bool:
        return scope["method"] == "OPTIONS" or is_open(route_path(scope))

    def _has_key(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)
