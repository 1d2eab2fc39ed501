"""create_app: every route and every layer around them, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from minivllm import __version__
from minivllm.async_engine import AsyncLLMEngine
from minivllm.serve.auth import ApiKeyGuard
from minivllm.serve.backend import Backend
from minivllm.serve.chat import chat_router
from minivllm.serve.completions import completions_router
from minivllm.serve.disconnect import ClientGone, answer_gone_client
from minivllm.serve.errors import install_error_handlers
from minivllm.serve.health import health_router
from minivllm.serve.limits import BodyLimit
from minivllm.serve.metrics import ServerMetrics
from minivllm.serve.models import models_router
from minivllm.serve.page import page_router
from minivllm.serve.settings import ServerSettings
from minivllm.serve.tokenization import tokenization_router


def create_app(engine: AsyncLLMEngine, settings: ServerSettings) -> FastAPI:
    """The server as an ASGI application. Whoever made `engine` also shuts it down."""
    metrics = ServerMetrics(
        settings.served_model_names[0], engine.max_model_len, lambda: engine.stats, cache_config(engine)
    )
    engine.observer = metrics
    backend = Backend(engine, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        backend.renderer.close()

    app = FastAPI(
        title="minivllm",
        version=__version__,
        lifespan=lifespan,
        docs_url="/docs" if settings.enable_docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.enable_docs else None,
    )
    for make in (models_router, completions_router, chat_router, tokenization_router, health_router):
        app.include_router(make(backend))
    app.include_router(page_router())
    install_error_handlers(app)
    app.add_exception_handler(ClientGone, answer_gone_client)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.api_keys:  # added last, asked first
        app.add_middleware(ApiKeyGuard, api_keys=settings.api_keys)
    return app


def cache_config(engine: AsyncLLMEngine) -> dict[str, object]:
    """What the metric vllm:cache_config_info tells."""
    return {
        "block_size": engine.config.block_size,
        "enable_prefix_caching": engine.config.enable_prefix_caching,
        "num_gpu_blocks": engine.stats.num_gpu_blocks,
    }
