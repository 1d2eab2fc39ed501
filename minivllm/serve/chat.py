"""POST /v1/chat/completions: a conversation, continued by one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from minivllm.outputs import CompletionOutput, RequestOutput
from minivllm.serve.backend import Backend, Job
from minivllm.serve.disconnect import unless_disconnected
from minivllm.serve.errors import bad_request
from minivllm.serve.logprobs import chat_logprobs
from minivllm.serve.protocol import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
    Delta,
)
from minivllm.serve.streaming import EventStream, json_response


def chat_router(backend: Backend) -> APIRouter:
    """The route, over `backend`."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=ChatCompletionResponse)
    async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await unless_disconnected(request, _answer(backend, body))

    return router


async def _answer(backend: Backend, body: ChatCompletionRequest) -> Response:
    backend.check_engine()
    backend.check_model(body.model)
    if body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    try:
        token_ids = await backend.renderer.encode_chat(body, must_fit=body.truncate_prompt_tokens is None)
    except ValueError as error:
        raise bad_request(str(error), "messages") from error
    token_ids = backend.fit(token_ids, body, "messages")
    max_tokens = backend.engine.max_model_len - len(token_ids) if body.max_tokens is None else body.max_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = backend.sampling_params(body, max_tokens, logprobs=logprobs)
    job = await backend.start("chatcmpl", [token_ids], [params], body)
    if body.stream:
        return EventStream(_chunks(backend, body, job), job.abort)
    (output,) = await job.results()
    usage = backend.usage([output], sum(len(one.token_ids) for one in output.outputs))
    choices = [_choice(one, body.top_logprobs or 0) for one in output.outputs]
    return json_response(
        ChatCompletionResponse(id=job.id, created=job.created, model=job.model, choices=choices, usage=usage)
    )


def _choice(one: CompletionOutput, num_top_logprobs: int) -> ChatChoice:
    return ChatChoice(
        index=one.index,
        message=AssistantMessage(content=one.text),
        logprobs=chat_logprobs(one, num_top_logprobs),
        finish_reason=one.finish_reason,
        stop_reason=one.stop_reason,
    )


async def _chunks(
    backend: Backend, body: ChatCompletionRequest, job: Job
) -> AsyncIterator[ChatCompletionChunk]:
    """First the role of every choice, then text as it comes, the reason with its end, the usage if asked for."""
    latest: RequestOutput | None = None
    num_tokens = 0

    def chunk(choices: list[ChatChunkChoice], with_usage: bool) -> ChatCompletionChunk:
        made = ChatCompletionChunk(
            id=job.id, object="chat.completion.chunk", created=job.created, model=job.model, choices=choices
        )
        if with_usage and latest is not None:
            made.usage = backend.usage([latest], num_tokens)
        return made

    def delta(index: int, said: Delta, one: CompletionOutput | None = None) -> ChatChunkChoice:
        made = ChatChunkChoice(index=index, delta=said, logprobs=None, finish_reason=None)
        if one is not None and one.finish_reason:
            made.finish_reason, made.stop_reason = one.finish_reason, one.stop_reason
        if one is not None:
            made.logprobs = chat_logprobs(one, body.top_logprobs or 0)
        return made

    async for output in job.streams[0]:
        if latest is None:
            latest = output
            for index in range(job.n):
                yield chunk([delta(index, Delta(role="assistant", content=""))], body.usage_in_every_chunk)
        latest = output
        for one in output.outputs:
            num_tokens += len(one.token_ids)
            if one.text or one.finish_reason or one.logprobs:
                said = Delta(content=one.text)
                yield chunk([delta(one.index, said, one)], body.usage_in_every_chunk)
    if body.include_usage:
        yield chunk([], True)
