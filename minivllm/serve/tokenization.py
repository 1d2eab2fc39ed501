"""POST /tokenize and /detokenize: what the model sees of a text."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from minivllm.serve.backend import Backend
from minivllm.serve.errors import bad_request
from minivllm.serve.protocol import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest


def tokenization_router(backend: Backend) -> APIRouter:
    """The routes, over `backend`."""
    router = APIRouter()
    renderer = backend.renderer

    @router.post("/tokenize")
    async def tokenize(body: TokenizeTextRequest | TokenizeChatRequest) -> dict[str, Any]:
        """Token ids of a text, or of a conversation as the chat template writes it."""
        backend.check_model(body.model)
        try:
            if isinstance(body, TokenizeTextRequest):
                (ids,) = await renderer.encode([body.prompt], body.add_special_tokens, must_fit=False)
            else:
                ids = await renderer.encode_chat(body, must_fit=False)
        except ValueError as error:
            raise bad_request(str(error)) from error
        strings = await renderer.token_strings(ids) if body.return_token_strs else None
        return {
            "count": len(ids),
            "max_model_len": backend.engine.max_model_len,
            "tokens": ids,
            "token_strs": strings,
        }

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        """The text of token ids."""
        backend.check_model(body.model)
        vocab_size = backend.engine.model_config.vocab_size
        if any(token_id >= vocab_size for token_id in body.tokens):
            raise bad_request(f"tokens must hold ids of the vocabulary, 0..{vocab_size - 1}", "tokens")
        try:
            return {"prompt": await renderer.decode(body.tokens)}
        except ValueError as error:
            raise bad_request(str(error)) from error

    return router
