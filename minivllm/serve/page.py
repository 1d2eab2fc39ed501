"""GET / and /static/*: the chat page. Its files are read once from the package, and no others can be asked for."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from minivllm.serve.errors import APIError

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "chat.css": "text/css; charset=utf-8",
    "chat.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_router() -> APIRouter:
    """The routes; the files are read here."""
    router = APIRouter()
    folder = files("minivllm.serve").joinpath("static")
    contents = {name: folder.joinpath(name).read_bytes() for name in MEDIA_TYPES}

    def asset(name: str) -> Response:
        if name not in contents:
            raise APIError(404, f"This server has no route /static/{name[:200]}")
        return Response(contents[name], media_type=MEDIA_TYPES[name], headers=HEADERS)

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        return asset("index.html")

    @router.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return asset(name)

    return router
