"""Pooler: embeddings in the engine. A text runs through the model like a prompt; its last hidden state is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import RequestUpdate
from minivllm.outputs import EmbeddingOutput, EmbeddingRequestOutput, RequestMetrics
from minivllm.pooling_params import PoolingParams
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.worker.model_runner import ModelRunnerOutput


class Pooler:
    """All texts that wait for their embedding.

    The last token has attended to all before it, so its hidden state after the final norm stands for the whole text
    (vLLM's LAST pooling). Chunked prefill, prefix hits and preemption work as for any request, because it is one: with
    a single output token, which nobody sees.
    """

    def __init__(self, scheduler: Scheduler, hidden_size: int) -> None:
        self._scheduler = scheduler
        self._hidden_size = hidden_size
        self._waiting: dict[str, PoolingParams] = {}
        self.num_finished = 0
        self.num_prompt_tokens = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def add(
        self,
        request_id: str,
        token_ids: list[int],
        params: PoolingParams,
        priority: int,
        cache_salt: str | None,
    ) -> None:
        """Queue a text.

        Raises:
            ValueError: more dimensions are asked for than there are.
            QueueFullError: too many requests are waiting.
        """
        if (params.dimensions or 1) > self._hidden_size:
            raise ValueError(
                f"dimensions ({params.dimensions}) must be at most {self._hidden_size}, the model's"
            )
        request = Request(
            request_id=request_id,
            prompt_token_ids=token_ids,
            sampling_params=SamplingParams(temperature=0, max_tokens=1, detokenize=False),
            max_tokens=1,
            is_pooling=True,
            priority=priority,
            cache_salt=cache_salt,
        )
        self._scheduler.add_request(request)
        self._waiting[request_id] = params

    def abort(self, request_id: str) -> bool:
        """Forget a text; False for unknown ids. The caller takes its request from the scheduler."""
        return self._waiting.pop(request_id, None) is not None

    def take_in(
        self, updates: Sequence[RequestUpdate], output: ModelRunnerOutput
    ) -> tuple[list[EmbeddingRequestOutput], list[RequestUpdate]]:
        """(the embeddings that a step has made, its updates without those of the texts)."""
        if not self._waiting:
            return [], list(updates)
        made = [
            self._output(update.request, output.pooled[update.request.request_id])
            for update in updates
            if update.request.request_id in self
        ]
        return made, [update for update in updates if not update.request.is_pooling]

    def _output(self, request: Request, hidden: Sequence[float]) -> EmbeddingRequestOutput:
        params = self._waiting.pop(request.request_id)
        self.num_finished += 1
        self.num_prompt_tokens += request.num_prompt_tokens
        now = time.monotonic()
        return EmbeddingRequestOutput(
            request_id=request.request_id,
            outputs=EmbeddingOutput(normalized(hidden[: params.dimensions])),
            prompt_token_ids=list(request.prompt_token_ids),
            metrics=RequestMetrics(request.arrival_time, request.first_scheduled_time, now, now),
            num_cached_tokens=request.num_cached_tokens,
        )


def normalized(vector: Sequence[float]) -> list[float]:
    """The vector at length 1; zeros stay zeros."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else list(vector)
