"""POST /v1/embeddings: one vector of length 1 for each text, the hidden state of its last token."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from minivllm.pooling_params import PoolingParams
from minivllm.serve.backend import Backend
from minivllm.serve.disconnect import unless_disconnected
from minivllm.serve.protocol import EmbeddingRequest
from minivllm.serve.responses import EmbeddingData, EmbeddingResponse
from minivllm.serve.streaming import json_response


def embeddings_router(backend: Backend) -> APIRouter:
    """The route, over `backend`."""
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=EmbeddingResponse)
    async def create_embedding(body: EmbeddingRequest, request: Request) -> Response:
        """Embed one text or many."""
        return await unless_disconnected(request, _embed(backend, body))

    return router


async def _embed(backend: Backend, body: EmbeddingRequest) -> Response:
    backend.check_engine()
    backend.check_model(body.model)
    must_fit = body.truncate_prompt_tokens is None
    texts = await backend.encode(body.input, "input", body.add_special_tokens, must_fit=must_fit)
    prompts = [backend.fit(token_ids, body, "input") for token_ids in texts]
    job = await backend.start("embd", prompts, [PoolingParams(body.dimensions)] * len(prompts), body)
    outputs = await job.results()
    in_base64 = body.encoding_format == "base64"
    data = [
        EmbeddingData(index=i, embedding=as_base64(vector) if in_base64 else vector)
        for i, vector in enumerate(output.outputs.embedding for output in outputs)
    ]
    usage = backend.usage(outputs, 0)
    return json_response(
        EmbeddingResponse(id=job.id, created=job.created, model=job.model, data=data, usage=usage)
    )


def as_base64(vector: Sequence[float]) -> str:
    """The vector as little-endian float32, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
