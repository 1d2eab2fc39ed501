"""POST /v1/completions: one prompt or many, continued."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from minivllm.outputs import CompletionOutput, Logprob, RequestOutput
from minivllm.serve.backend import DEFAULT_MAX_TOKENS, Backend, Job
from minivllm.serve.disconnect import unless_disconnected
from minivllm.serve.errors import bad_request
from minivllm.serve.logprobs import completion_logprobs
from minivllm.serve.protocol import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
)
from minivllm.serve.streaming import EventStream, json_response, merged


def completions_router(backend: Backend) -> APIRouter:
    """The route, over `backend`."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=CompletionResponse)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Continue one prompt or many."""
        return await unless_disconnected(request, _complete(backend, body))

    return router


async def _complete(backend: Backend, body: CompletionRequest) -> Response:
    backend.check_engine()
    backend.check_model(body.model)
    prompts = await _token_ids(backend, body)
    echoes = await _echoes(backend, body, prompts)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    prompt_logprobs = body.logprobs if body.echo else None
    params = backend.sampling_params(
        body, max_tokens, logprobs=body.logprobs, prompt_logprobs=prompt_logprobs
    )
    writer = ChoiceWriter(body.n or 1, echoes)
    job = await backend.start("cmpl", prompts, [params] * len(prompts), body)
    if body.stream:
        return EventStream(_chunks(backend, body, job, writer), job.abort)
    outputs = await job.results()
    choices = [writer.write(i, output, one) for i, output in enumerate(outputs) for one in output.outputs]
    num_tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
    usage = backend.usage(outputs, num_tokens)
    return json_response(
        CompletionResponse(id=job.id, created=job.created, model=job.model, choices=choices, usage=usage)
    )


async def _token_ids(backend: Backend, body: CompletionRequest) -> list[list[int]]:
    """The prompts as token ids that fit the context."""
    prompts = body.prompt
    if isinstance(prompts[0], str):
        must_fit = body.truncate_prompt_tokens is None
        try:
            prompts = await backend.renderer.encode(prompts, body.add_special_tokens, must_fit=must_fit)
        except ValueError as error:
            raise bad_request(str(error), "prompt") from error
    return [backend.fit(token_ids, body, "prompt") for token_ids in prompts]


@dataclass(frozen=True)
class Echo:
    """What stands before a continuation when `echo` is set."""

    text: str
    first_token: str  # the one token without a log-probability, and therefore without a spelling


async def _echoes(backend: Backend, body: CompletionRequest, prompts: list[list[int]]) -> list[Echo | None]:
    """The echo of each prompt; None where none was asked for."""
    if not body.echo:
        return [None] * len(prompts)
    if body.max_tokens == 0:
        raise bad_request("max_tokens must be at least 1: scoring a prompt alone is not served", "max_tokens")
    decode = backend.renderer.decode
    texts = [p if isinstance(p, str) else await decode(p) for p in body.prompt]
    return [Echo(text, await decode(ids[:1])) for text, ids in zip(texts, prompts, strict=True)]


class ChoiceWriter:
    """Turns outputs into choices, whole or piece by piece; the first piece of a choice begins with the echo."""

    def __init__(self, n: int, echoes: list[Echo | None]) -> None:
        self._n = n
        self._echoes = echoes
        self._offsets: dict[int, int] = {}  # of choices that have begun: where their next text stands

    def write(self, prompt_index: int, output: RequestOutput, one: CompletionOutput) -> CompletionChoice:
        """What `one`, an output of the given prompt, adds to its choice."""
        index = prompt_index * self._n + one.index
        echo = self._echoes[prompt_index] if index not in self._offsets else None
        choice = CompletionChoice(
            index=index,
            text=(echo.text if echo else "") + one.text,
            logprobs=self._logprobs(index, output, one, echo=echo),
            finish_reason=one.finish_reason,
            stop_reason=one.stop_reason,
        )
        self._offsets[index] = self._offsets.get(index, 0) + len(choice.text)
        return choice

    def _logprobs(
        self, index: int, output: RequestOutput, one: CompletionOutput, *, echo: Echo | None
    ) -> CompletionLogprobs | None:
        if one.logprobs is None:
            return None
        token_ids = list(one.token_ids)
        entries: list[dict[int, Logprob] | None] = list(one.logprobs)
        if echo is not None and output.prompt_logprobs is not None:
            token_ids, entries = output.prompt_token_ids + token_ids, output.prompt_logprobs + entries
        return completion_logprobs(
            token_ids, entries, self._offsets.get(index, 0), echo.first_token if echo else ""
        )


async def _chunks(
    backend: Backend, body: CompletionRequest, job: Job, writer: ChoiceWriter
) -> AsyncIterator[CompletionResponse]:
    latest: dict[int, RequestOutput] = {}
    num_tokens = 0

    def chunk(choices: list[CompletionChoice], with_usage: bool) -> CompletionResponse:
        made = CompletionResponse(
            id=job.id, object="text_completion", created=job.created, model=job.model, choices=choices
        )
        if with_usage:
            made.usage = backend.usage(list(latest.values()), num_tokens)
        return made

    async for index, output in merged(job.streams):
        latest[index] = output
        for one in output.outputs:
            num_tokens += len(one.token_ids)
            choice = writer.write(index, output, one)
            if choice.text or choice.finish_reason or choice.logprobs:
                yield chunk([choice], body.usage_in_every_chunk)
    if body.include_usage:
        yield chunk([], True)
