"""Which routes ask for a key and which do not, and what a route's path is behind a proxy's prefix."""

from __future__ import annotations

from starlette.types import Scope

# A supervisor's checks, Prometheus, and the page, which holds no secret. Nothing here tells what anybody asked.
OPEN_PATHS = frozenset({"/", "/health", "/ping", "/version", "/load", "/metrics"})
OPEN_PREFIX = "/static/"


def route_path(scope: Scope) -> str:
    """The path as the routes know it: without --root-path, which uvicorn puts in front of it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_open(path: str) -> bool:
    """Is a route of this path answered without a key?"""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)
