"""Request: one prompt on its way to an answer, as the control plane sees it. No tensors, no text."""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from minivllm.sampling_params import SamplingParams


class RequestStatus(enum.Enum):
    """Where a request stands. Everything from FINISHED_STOPPED on is final."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED_STOPPED = "stop"
    FINISHED_LENGTH_CAPPED = "length"
    FINISHED_ABORTED = "abort"
    FINISHED_ERROR = "error"

    def __init__(self, word: str) -> None:
        self.is_finished = word not in ("waiting", "running", "preempted")
        # The word a client reads: stop, length, abort or error; None while the request lives.
        self.finish_reason = word if self.is_finished else None


@dataclass(eq=False)
class Request:
    """A prompt, what was generated so far, and how much of both is in the KV cache.

    There is no prefill phase and no decode phase: a request owes `num_tokens - num_computed_tokens` tokens, whatever
    they are. It is `num_tokens` that grows by sampling and `num_computed_tokens` that catches up.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling_params: SamplingParams
    stop_token_ids: frozenset[int] = (
        frozenset()
    )  # any of them ends the request (end of sequence and the user's own)
    max_tokens: int = 16  # resolved: what the user asked for, clipped to the context
    seed: int = 0  # resolved: the user's, or drawn from the engine's
    bad_words_token_ids: Sequence[Sequence[int]] = ()
    parent_id: str | None = None  # of a request with n > 1, whose choice number `index` this is
    index: int = 0
    is_beam: bool = False  # its tokens are not sampled: the beam search appends them
    is_pooling: bool = (
        False  # wanted is the hidden state of its last token; the one token it samples is dropped
    )
    priority: int = 0  # smaller is more urgent
    cache_salt: str | None = None  # only requests with the same salt share prefix blocks
    skip_prefix_cache: bool = False  # it needs logits of tokens that a hit would skip
    fork_from: Request | None = None  # a sibling with the same prompt, whose blocks this request is to share
    deadline: float | None = None  # in seconds of time.monotonic(): aborted if not finished by then
    arrival_time: float = field(default_factory=time.monotonic)
    arrival_number: int = 0  # set by the scheduler

    status: RequestStatus = RequestStatus.WAITING
    stop_reason: int | str | None = None
    output_token_ids: list[int] = field(default_factory=list)
    spec_token_ids: list[int] = field(default_factory=list)  # drafts to be verified in the next step
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt, found in the prefix cache when first admitted
    num_rejected_drafts: int = 0
    num_preemptions: int = 0
    num_in_flight: int = 0  # steps that were scheduled and have not returned
    first_scheduled_time: float | None = None
    num_prompt_tokens: int = field(init=False)  # counted once: a prompt does not grow

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        """Known tokens: the prompt and what was sampled."""
        return self.num_prompt_tokens + len(self.output_token_ids)

    @property
    def num_tokens_with_spec(self) -> int:
        return self.num_prompt_tokens + len(self.output_token_ids) + len(self.spec_token_ids)

    @property
    def cache_keys(self) -> tuple[str, ...]:
        """What besides the tokens decides the content of the KV cache; part of the first block's hash."""
        return () if self.cache_salt is None else (f"salt:{self.cache_salt}",)

    @property
    def all_token_ids(self) -> list[int]:
        return [*self.prompt_token_ids, *self.output_token_ids]

    def tokens_between(self, start: int, stop: int) -> list[int]:
        """Known tokens at positions [start, stop), without copying the whole request."""
        num_prompt = self.num_prompt_tokens
        if stop <= num_prompt:
            return list(self.prompt_token_ids[start:stop])
        outputs = self.output_token_ids[max(0, start - num_prompt) : stop - num_prompt]
        return [*self.prompt_token_ids[start:], *outputs]

    def append_output_token(self, token_id: int) -> None:
        self.output_token_ids.append(token_id)

    def check_stop(self, max_model_len: int) -> bool:
        """Does the newest output token end the request? Sets `status` and `stop_reason` if so.

        A stop token counts only once `min_tokens` were generated (the sampler cannot draw one before).
        """
        token_id, num_output_tokens = self.output_token_ids[-1], len(self.output_token_ids)
        if token_id in self.stop_token_ids and num_output_tokens > self.sampling_params.min_tokens:
            self.status = RequestStatus.FINISHED_STOPPED
            if token_id in (self.sampling_params.stop_token_ids or ()):
                self.stop_reason = token_id
            return True
        num_tokens = self.num_prompt_tokens + num_output_tokens
        if num_output_tokens >= self.max_tokens or num_tokens >= max_model_len:
            self.status = RequestStatus.FINISHED_LENGTH_CAPPED
            return True
        return False
