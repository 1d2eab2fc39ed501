"""GET /v1/models: what is served here."""

from __future__ import annotations

from fastapi import APIRouter

from minivllm.serve.backend import Backend
from minivllm.serve.responses import ModelCard, ModelList


def models_router(backend: Backend) -> APIRouter:
    """The routes, over `backend`."""
    router = APIRouter()

    def card(name: str) -> ModelCard:
        return ModelCard(
            id=name,
            created=backend.created,
            root=backend.model_name,
            max_model_len=backend.engine.max_model_len,
        )

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        """All names under which the model is served."""
        return ModelList(data=[card(name) for name in backend.settings.served_model_names])

    @router.get("/v1/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        """One of them."""
        backend.check_model(name)
        return card(name)

    return router
