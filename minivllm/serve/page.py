"""GET /, /static/*, /xray and /docs: the page, what it watches, and the reference. Nothing comes from the web."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from minivllm.serve.errors import APIError
from minivllm.serve.xray import XrayFeed

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "xray.css": "text/css; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "chat.js": "text/javascript; charset=utf-8",
    "xray.js": "text/javascript; charset=utf-8",
    "xray-state.js": "text/javascript; charset=utf-8",
    "xray-draw.js": "text/javascript; charset=utf-8",
    "docs.html": "text/html; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
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


def page_router(feeds: Sequence[XrayFeed], *, with_docs: bool) -> APIRouter:
    """The routes; the files are read here. There is a feed for each replica, or none, and then nothing to watch."""
    router = APIRouter(include_in_schema=False)
    folder = files("minivllm.serve").joinpath("static")
    contents = {name: folder.joinpath(name).read_bytes() for name in MEDIA_TYPES}

    def asset(name: str) -> Response:
        if name not in contents:
            raise APIError(404, f"This server has no route /static/{name[:200]}")
        return Response(contents[name], media_type=MEDIA_TYPES[name], headers=HEADERS)

    @router.get("/")
    async def index() -> Response:
        return asset("index.html")

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        return asset(name)

    if with_docs:

        @router.get("/docs")
        async def docs() -> Response:
            return asset("docs.html")

    if feeds:

        @router.get("/xray")
        async def xray(replica: int = 0) -> Response:
            """What the engine does, or the one of that number among data-parallel ones, as server-sent events."""
            if not 0 <= replica < len(feeds):
                raise APIError(
                    404, f"replica must be in [0, {len(feeds) - 1}], not {replica}", param="replica"
                )
            headers = {**HEADERS, "X-Accel-Buffering": "no"}
            events = feeds[replica].watch()
            first = await anext(events)  # a refusal is an answer of its own, not a broken stream
            return StreamingResponse(_after(first, events), media_type="text/event-stream", headers=headers)

    return router


async def _after(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for event in events:
            yield event
    finally:
        await events.aclose()  # type: ignore[attr-defined]
