"""Backend: what all routes share. The names that are served, the defaults, and the way into the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minivllm.async_engine import AsyncLLMEngine
from minivllm.core.scheduler import QueueFullError
from minivllm.outputs import EmbeddingRequestOutput, RequestOutput
from minivllm.pooling_params import PoolingParams
from minivllm.request_stream import EngineOutput, RequestStream
from minivllm.sampling_params import (
    BeamSearchParams,
    SamplingParams,
    StructuredOutputsParams,
    sampling_defaults,
)
from minivllm.serve.errors import APIError, bad_request
from minivllm.serve.metrics import ServerMetrics
from minivllm.serve.params import beam_search_params, form_of, sampling_params
from minivllm.serve.protocol import SamplingFields, StreamOptions
from minivllm.serve.rendering import Renderer
from minivllm.serve.responses import PromptTokensDetails, Usage
from minivllm.serve.settings import ServerSettings
from minivllm.serve.tracking import ServerLoad

DEFAULT_MAX_TOKENS = 16  # of a completion; a chat may fill the context
EngineParams = SamplingParams | BeamSearchParams | PoolingParams


class Truncation(Protocol):
    """A request that says how its prompt may be cut."""

    @property
    def truncate_prompt_tokens(self) -> int | None: ...
    @property
    def truncation_side(self) -> str: ...


class Placement(Protocol):
    """A request that says how it wants to be called and queued."""

    request_id: str | None
    priority: int


@dataclass(frozen=True)
class Job:
    """One HTTP request on its way through the engine: a stream of outputs for each prompt."""

    id: str
    model: str
    created: int  # seconds since 1970
    streams: Sequence[RequestStream]
    n: int  # choices of each prompt

    def abort(self) -> None:
        """Give up what has not finished."""
        for stream in self.streams:
            stream.abort()

    async def results(self) -> list[Any]:
        """The finished output of each prompt; with the first error, or when cancelled, all are aborted."""

        async def last(stream: RequestStream) -> EngineOutput:
            return [check_output(output) async for output in stream][-1]

        try:
            return list(await asyncio.gather(*map(last, self.streams)))
        finally:
            self.abort()


class Backend:
    """One engine behind all routes."""

    def __init__(self, engine: AsyncLLMEngine, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self.renderer = Renderer(engine.tokenizer, engine.max_model_len, settings.chat_template)
        self.load = ServerLoad()
        self.created = int(time.time())
        self._defaults = sampling_defaults(engine.model_config.generation_defaults)
        self._max_tokens_limit: int | None = engine.model_config.generation_defaults.get("max_new_tokens")

    @property
    def model_name(self) -> str:
        """The name that responses carry."""
        return self.settings.served_model_names[0]

    @property
    def default_temperature(self) -> float:
        """Of requests that bring none."""
        return self._defaults.get("temperature", SamplingParams.temperature)

    def check_model(self, name: str | None) -> None:
        """404 unless `name` is served here; None means the only model there is."""
        if name is not None and name not in self.settings.served_model_names:
            served = ", ".join(self.settings.served_model_names)
            raise APIError(
                404, f"The model `{name[:200]}` does not exist; this server has: {served}", param="model"
            )

    def check_engine(self) -> None:
        """Raise EngineDeadError if there is no engine to ask."""
        if (error := self.engine.dead_error) is not None:
            raise error

    def fit(self, token_ids: list[int], request: Truncation, param: str, room: int = 1) -> list[int]:
        """The prompt, truncated if the request says so; 400 when it leaves no room for an answer.

        Args:
            token_ids: of the prompt. request: may ask to keep only so many of them (-1: as many as leave `room`).
            param: the field that holds the prompt. room: tokens that the answer wants.
        """
        limit = self.engine.max_model_len
        keep = request.truncate_prompt_tokens
        if keep is not None:
            keep = max(1, limit - max(1, room)) if keep == -1 else keep
            if keep == 0:
                raise bad_request("truncate_prompt_tokens must be -1 or at least 1: nothing would be left")
            token_ids = token_ids[-keep:] if request.truncation_side == "left" else token_ids[:keep]
        if len(token_ids) >= limit:
            raise bad_request(
                f"{len(token_ids)} tokens are too many: the context holds {limit}, one of them for the answer. Shorten "
                f"{param} to {limit - 1} tokens, or set truncate_prompt_tokens.",
                param,
            )
        return token_ids

    async def encode(
        self, texts: list[str] | list[list[int]], param: str, add_special_tokens: bool, *, must_fit: bool
    ) -> list[list[int]]:
        """Texts as token ids; token ids stay what they are. 400 for what cannot be encoded."""
        if not isinstance(texts[0], str):
            return texts
        try:
            return await self.renderer.encode(texts, add_special_tokens, must_fit=must_fit)
        except ValueError as error:
            raise bad_request(str(error), param) from error

    def form(self, request: SamplingFields) -> StructuredOutputsParams | None:
        """The form that the answer must have; 400 if the request contradicts itself."""
        try:
            return form_of(request)
        except ValueError as error:
            raise bad_request(str(error)) from error

    def tokens_as_ids(self, request: SamplingFields) -> bool:
        """Are log-probabilities to name tokens by their ids?"""
        if request.return_tokens_as_token_ids is None:
            return self.settings.return_tokens_as_token_ids
        return request.return_tokens_as_token_ids

    def params(
        self,
        request: SamplingFields,
        max_tokens: int,
        *,
        logprobs: int | None,
        form: StructuredOutputsParams | None,
    ) -> SamplingParams | BeamSearchParams:
        """What the engine is told to do with each prompt of the request; 400 if it makes no sense."""
        num_allowed, vocab_size = len(request.allowed_token_ids or ()), self.engine.model_config.vocab_size
        if num_allowed > vocab_size:  # before anything looks at each of them
            raise bad_request(f"allowed_token_ids holds {num_allowed} ids; the vocabulary has {vocab_size}")
        if self._max_tokens_limit is not None:
            max_tokens = min(max_tokens, self._max_tokens_limit)
        if request.stream and self.settings.enable_force_include_usage:
            request.stream_options = StreamOptions(include_usage=True)
        try:
            if request.use_beam_search:
                return beam_search_params(request, max_tokens)
            return sampling_params(request, self._defaults, max_tokens, logprobs, form)
        except ValueError as error:
            raise bad_request(str(error)) from error

    async def start(
        self, kind: str, prompts: Sequence[list[int]], params: Sequence[EngineParams], request: Placement
    ) -> Job:
        """Bring the prompts into the engine; when one is refused, none is run."""
        job_id = f"{kind}-{request.request_id or uuid.uuid4().hex}"
        options = {"priority": request.priority, "cache_salt": getattr(request, "cache_salt", None)}
        streams: list[RequestStream] = []
        job = Job(job_id, self.model_name, int(time.time()), streams, num_choices(params[0]))
        try:
            for index, (token_ids, one) in enumerate(zip(prompts, params, strict=True)):
                prompt = {"prompt_token_ids": token_ids}
                streams.append(self.engine.submit(prompt, one, f"{job_id}-{index}", **options))
            for stream in streams:
                await stream.wait_until_admitted()
        except BaseException as error:  # also a cancellation: whatever was sent is taken back
            job.abort()
            if isinstance(error, QueueFullError):
                self.metrics.on_queue_full()
            if isinstance(error, ValueError):
                raise bad_request(str(error)) from error
            raise
        self.metrics.on_start(params)
        return job

    def usage(
        self, outputs: Sequence[RequestOutput | EmbeddingRequestOutput], completion_tokens: int
    ) -> Usage:
        """Tokens read by the given requests (one output of each will do) and written."""
        prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
        usage = Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )
        if self.settings.enable_prompt_tokens_details:
            cached = sum(output.num_cached_tokens for output in outputs)
            usage.prompt_tokens_details = PromptTokensDetails(cached_tokens=cached)
        return usage


def check_output(output: EngineOutput) -> EngineOutput:
    """Raises APIError if the engine gave a choice up, which it does for grammars that cost too much to follow."""
    if isinstance(output, RequestOutput) and any(one.finish_reason == "error" for one in output.outputs):
        raise APIError(
            400,
            "structured_outputs asks for a form that became too expensive to follow: make the grammar simpler.",
            param="structured_outputs",
        )
    return output


def num_choices(params: EngineParams) -> int:
    """How many choices a prompt gets."""
    if isinstance(params, BeamSearchParams):
        return params.beam_width
    return params.n if isinstance(params, SamplingParams) else 1
