"""GET /health, /ping, /version, /load, /status and /metrics: how the server is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.responses import Response

from minivllm import __version__
from minivllm.serve.backend import Backend
from minivllm.serve.responses import HealthResponse


def health_router(backend: Backend) -> APIRouter:
    """The routes, over `backend`."""
    router = APIRouter()
    num_null_blocks = backend.engine.config.data_parallel_size  # block 0 of every replica

    answers: dict[int | str, dict[str, Any]] = {503: {"model": HealthResponse}}

    @router.get("/health", response_model=HealthResponse, responses=answers)
    @router.get("/ping", response_model=HealthResponse, responses=answers)
    @router.post("/ping", response_model=HealthResponse, responses=answers)
    async def health() -> Response:
        """200 while requests can be served, 503 once the engine is dead."""
        is_dead = backend.engine.dead_error is not None
        body = {"status": "dead" if is_dead else "ok", "version": __version__}
        return JSONResponse(body, status_code=503 if is_dead else 200)

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The version of minivllm."""
        return {"version": __version__}

    @router.get("/load")
    async def load() -> dict[str, int]:
        """Requests that are being answered; 0 unless --enable-server-load-tracking is set, as in vLLM."""
        is_tracked = backend.settings.enable_server_load_tracking
        return {"server_load": backend.load.num_requests if is_tracked else 0}

    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/metrics", response_class=Response, responses=text)
    async def metrics() -> Response:
        """Everything Prometheus asks for."""
        return Response(backend.metrics.render(), media_type=backend.metrics.content_type)

    @router.get("/status")
    async def status() -> dict[str, Any]:
        """The few numbers of the page's status line."""
        stats = backend.engine.stats
        num_blocks = stats.num_gpu_blocks - num_null_blocks  # which hold nothing
        return {
            "model": backend.model_name,
            "is_alive": backend.engine.dead_error is None,
            "num_requests_running": stats.num_running_reqs,
            "num_requests_waiting": stats.num_waiting_reqs,
            "num_blocks_in_use": num_blocks - stats.num_free_blocks,
            "num_blocks": num_blocks,
            "max_model_len": backend.engine.max_model_len,
            "default_temperature": backend.default_temperature,
            "has_xray": backend.settings.enable_xray,
        }

    return router
