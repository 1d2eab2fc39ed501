"""create_app: every route and every layer around them, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from minivllm import __version__
from minivllm.async_engine import AsyncLLMEngine, StepObserver
from minivllm.outputs import EngineStats
from minivllm.request_stream import EngineOutput
from minivllm.serve.auth import ApiKeyGuard
from minivllm.serve.backend import Backend
from minivllm.serve.chat import chat_router
from minivllm.serve.completions import completions_router
from minivllm.serve.disconnect import ClientGone, answer_gone_client
from minivllm.serve.embeddings import embeddings_router
from minivllm.serve.errors import install_error_handlers
from minivllm.serve.health import health_router
from minivllm.serve.limits import BodyLimit, HeaderLimit
from minivllm.serve.metrics import ServerMetrics
from minivllm.serve.models import models_router
from minivllm.serve.page import page_router
from minivllm.serve.responses import ErrorResponse
from minivllm.serve.settings import ServerSettings
from minivllm.serve.tokenization import tokenization_router
from minivllm.serve.tracking import RequestTracker
from minivllm.serve.xray import XrayFeed


def create_app(engine: AsyncLLMEngine, settings: ServerSettings) -> FastAPI:
    """The server as an ASGI application. Whoever made `engine` also shuts it down."""
    metrics = ServerMetrics(
        settings.served_model_names[0], engine.max_model_len, lambda: engine.stats, cache_config(engine)
    )
    num_feeds = engine.config.data_parallel_size if settings.enable_xray else 0
    feeds = [XrayFeed(engine, replica) for replica in range(num_feeds)]
    engine.observer = Observers((metrics, *feeds)) if feeds else metrics
    backend = Backend(engine, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        backend.renderer.close()

    app = FastAPI(
        title="minivllm",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # page.py has one that needs nothing from the web
        redoc_url=None,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
        openapi_url="/openapi.json" if settings.enable_docs else None,
    )
    for make in (
        models_router,
        completions_router,
        chat_router,
        embeddings_router,
        tokenization_router,
        health_router,
    ):
        app.include_router(make(backend))
    app.include_router(page_router(feeds, with_docs=settings.enable_docs))
    install_error_handlers(app)
    app.add_exception_handler(ClientGone, answer_gone_client)
    _add_layers(app, backend)
    return app


def _add_layers(app: FastAPI, backend: Backend) -> None:
    """What every request passes before it reaches a route; the last one added is the first one asked."""
    settings = backend.settings
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, seconds=settings.body_timeout)
    if settings.api_keys:
        app.add_middleware(ApiKeyGuard, api_keys=settings.api_keys)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(HeaderLimit, max_count=settings.max_header_count)
    app.add_middleware(
        RequestTracker,
        metrics=backend.metrics.http,
        load=backend.load,
        log_requests=settings.enable_log_requests,
        send_ids=settings.enable_request_id_headers,
    )


class Observers:
    """Several StepObservers in the place of one."""

    def __init__(self, observers: Sequence[StepObserver]) -> None:
        self._observers = observers

    def on_step(self, outputs: Sequence[EngineOutput], stats: EngineStats, now: float) -> None:
        """Tell all of them."""
        for observer in self._observers:
            observer.on_step(outputs, stats, now)

    def on_abort(self, request_id: str) -> None:
        """Tell all of them."""
        for observer in self._observers:
            observer.on_abort(request_id)


def cache_config(engine: AsyncLLMEngine) -> dict[str, object]:
    """What the metric vllm:cache_config_info tells."""
    return {
        "block_size": engine.config.block_size,
        "cache_dtype": engine.config.kv_cache_dtype,
        "enable_prefix_caching": engine.config.enable_prefix_caching,
        "num_gpu_blocks": engine.stats.num_gpu_blocks,
    }
