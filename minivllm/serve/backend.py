"""Backend: what all routes share. The names that are served, the defaults, and the way into the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minivllm.async_engine import AsyncLLMEngine, RequestStream
from minivllm.outputs import RequestOutput
from minivllm.sampling_params import RequestOutputKind, SamplingParams, sampling_defaults
from minivllm.serve.errors import APIError, bad_request
from minivllm.serve.metrics import ServerMetrics
from minivllm.serve.protocol import PromptTokensDetails, SamplingFields, Usage
from minivllm.serve.rendering import Renderer
from minivllm.serve.settings import ServerSettings

DEFAULT_MAX_TOKENS = 16  # of a completion; a chat may fill the context
_PASSED_ON = (
    *(
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "min_tokens",
        "stop",
        "stop_token_ids",
        "ignore_eos",
    ),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "allowed_token_ids"),
    *("bad_words", "include_stop_str_in_output", "skip_special_tokens"),
)


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

    async def results(self) -> list[RequestOutput]:
        """The finished output of each prompt; with the first error, or when cancelled, all are aborted."""

        async def last(stream: RequestStream) -> RequestOutput:
            return [output async for output in stream][-1]

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
        self.renderer = Renderer(engine.tokenizer, engine.max_model_len)
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

    def fit(self, token_ids: list[int], request: SamplingFields, param: str) -> list[int]:
        """The prompt, truncated if the request says so; 400 when it leaves no room for an answer."""
        limit = self.engine.max_model_len
        keep = request.truncate_prompt_tokens
        if keep is not None:
            keep = max(1, limit - max(1, request.max_tokens or 1)) if keep == -1 else keep
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

    def sampling_params(self, request: SamplingFields, max_tokens: int, **more: Any) -> SamplingParams:
        """The request's own values over the model's recommendation over the defaults of SamplingParams."""
        own = {name: getattr(request, name) for name in _PASSED_ON if getattr(request, name) is not None}
        values = {**self._defaults, **own}
        if self._max_tokens_limit is not None:
            max_tokens = min(max_tokens, self._max_tokens_limit)
        kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
        try:
            return SamplingParams(max_tokens=max_tokens, output_kind=kind, **values, **more)
        except ValueError as error:
            raise bad_request(str(error)) from error

    async def start(
        self,
        kind: str,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        request: SamplingFields,
    ) -> Job:
        """Bring the prompts into the engine; when one is refused, none is run."""
        job_id = f"{kind}-{uuid.uuid4().hex}"
        options = {"priority": request.priority, "cache_salt": request.cache_salt}
        streams: list[RequestStream] = []
        job = Job(job_id, self.model_name, int(time.time()), streams, params[0].n)
        try:
            for index, (token_ids, one) in enumerate(zip(prompts, params, strict=True)):
                prompt = {"prompt_token_ids": token_ids}
                streams.append(self.engine.submit(prompt, one, f"{job_id}-{index}", **options))
            for stream in streams:
                await stream.wait_until_admitted()
        except BaseException as error:  # also a cancellation: whatever was sent is taken back
            job.abort()
            if isinstance(error, ValueError):
                raise bad_request(str(error)) from error
            raise
        self.metrics.on_start(params)
        return job

    def usage(self, outputs: Sequence[RequestOutput], completion_tokens: int) -> Usage:
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
