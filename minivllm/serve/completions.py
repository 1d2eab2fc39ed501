"""POST /v1/completions: one prompt or many, continued."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from minivllm.outputs import CompletionOutput, Logprob, RequestOutput
from minivllm.serve.backend import DEFAULT_MAX_TOKENS, Backend, Job
from minivllm.serve.disconnect import unless_disconnected
from minivllm.serve.logprobs import completion_logprobs, prompt_logprobs
from minivllm.serve.protocol import CompletionRequest
from minivllm.serve.responses import CompletionChoice, CompletionLogprobs, CompletionResponse
from minivllm.serve.streaming import STREAMED, event_stream, json_response, merged


def completions_router(backend: Backend) -> APIRouter:
    """The route, over `backend`."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=CompletionResponse, responses=STREAMED)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Continue one prompt or many."""
        return await unless_disconnected(request, _complete(backend, body))

    return router


async def _complete(backend: Backend, body: CompletionRequest) -> Response:
    backend.check_engine()
    backend.check_model(body.model)
    form = backend.form(body)
    prompts = await _token_ids(backend, body)
    echoes = await _echoes(backend, body, prompts)
    only_score = body.max_tokens == 0  # the one token that is generated then is nobody's business
    shown = _Shown.of(body, backend, only_score)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens or 1
    if body.echo and body.logprobs is not None and body.prompt_logprobs is None:
        body.prompt_logprobs = body.logprobs
    params = backend.params(body, max_tokens, logprobs=body.logprobs, form=form)
    job = await backend.start("cmpl", prompts, [params] * len(prompts), body)
    writer = ChoiceWriter(job.n, echoes, shown)
    if body.stream:
        return event_stream(backend, _chunks(backend, body, job, writer), job)
    outputs = await job.results()
    choices = [writer.write(i, output, one) for i, output in enumerate(outputs) for one in output.outputs]
    num_tokens = 0 if only_score else sum(len(one.token_ids) for output in outputs for one in output.outputs)
    usage = backend.usage(outputs, num_tokens)
    return json_response(
        CompletionResponse(id=job.id, created=job.created, model=job.model, choices=choices, usage=usage)
    )


async def _token_ids(backend: Backend, body: CompletionRequest) -> list[list[int]]:
    """The prompts as token ids that fit the context."""
    must_fit = body.truncate_prompt_tokens is None
    prompts = await backend.encode(body.prompt, "prompt", body.add_special_tokens, must_fit=must_fit)
    return [backend.fit(token_ids, body, "prompt", body.max_tokens or 1) for token_ids in prompts]


@dataclass(frozen=True)
class Echo:
    """What stands before a continuation when `echo` is set."""

    text: str
    first_token: str  # the one token without a log-probability, and therefore without a spelling


async def _echoes(backend: Backend, body: CompletionRequest, prompts: list[list[int]]) -> list[Echo | None]:
    """The echo of each prompt; None where none was asked for."""
    if not body.echo:
        return [None] * len(prompts)
    decode = backend.renderer.decode
    texts = [p if isinstance(p, str) else await decode(p) for p in body.prompt]
    return [Echo(text, await decode(ids[:1])) for text, ids in zip(texts, prompts, strict=True)]


@dataclass(frozen=True)
class _Shown:
    """What of the outputs a request wants to see."""

    completion: bool  # False: only the prompt was to be scored
    prompt_logprobs: bool
    token_ids: bool
    logprobs_as_ids: bool

    @classmethod
    def of(cls, body: CompletionRequest, backend: Backend, only_score: bool) -> _Shown:
        return cls(
            completion=not only_score,
            prompt_logprobs=body.prompt_logprobs is not None,
            token_ids=bool(body.return_token_ids),
            logprobs_as_ids=backend.tokens_as_ids(body),
        )


class ChoiceWriter:
    """Turns outputs into choices, whole or piece by piece; the first piece of a choice begins with the echo."""

    def __init__(self, n: int, echoes: list[Echo | None], shown: _Shown) -> None:
        self._n = n
        self._echoes = echoes
        self._shown = shown
        self._offsets: dict[int, int] = {}  # of choices that have begun: where their next text stands

    def write(self, prompt_index: int, output: RequestOutput, one: CompletionOutput) -> CompletionChoice:
        """What `one`, an output of the given prompt, adds to its choice."""
        if not self._shown.completion:
            one = replace(one, text="", token_ids=[], logprobs=one.logprobs and [], stop_reason=None)
        index = prompt_index * self._n + one.index
        is_first = index not in self._offsets
        echo = self._echoes[prompt_index] if is_first else None
        choice = CompletionChoice(
            index=index,
            text=(echo.text if echo else "") + one.text,
            logprobs=self._logprobs(index, output, one, echo=echo),
            finish_reason=one.finish_reason,
            stop_reason=one.stop_reason,
        )
        if self._shown.prompt_logprobs and output.prompt_logprobs is not None:
            choice.prompt_logprobs = prompt_logprobs(output.prompt_logprobs)
        if self._shown.token_ids:
            choice.token_ids = list(one.token_ids)
            if is_first:
                choice.prompt_token_ids = output.prompt_token_ids
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
            token_ids,
            entries,
            self._offsets.get(index, 0),
            echo.first_token if echo else "",
            as_ids=self._shown.logprobs_as_ids,
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
            num_tokens += 0 if body.max_tokens == 0 else len(one.token_ids)
            choice = writer.write(index, output, one)
            if choice.text or choice.finish_reason or choice.logprobs or choice.token_ids:
                yield chunk([choice], body.usage_in_every_chunk)
    if body.include_usage:
        yield chunk([], True)
