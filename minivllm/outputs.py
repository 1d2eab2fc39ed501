"""What a caller gets back: RequestOutput, one CompletionOutput per choice, and the times of a request's life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Logprob:
    """The model's own log-probability of a token at one position, before temperature and penalties."""

    logprob: float
    rank: int | None = None  # 1 = the most likely
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """One generated continuation of a prompt.

    `stop_reason` is None for an end-of-sequence token or the length limit, the string for a stop string, and the id for
    one of `stop_token_ids`.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None  # one dict for each output token: token id -> Logprob
    finish_reason: str | None = None  # stop, length, abort, error; None while it runs
    stop_reason: int | str | None = None
    lora_request: None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass
class RequestMetrics:
    """Moments in seconds of `time.monotonic()`; None = not yet."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass
class RequestOutput:
    """The state of one request after a step, or at its end (see `SamplingParams.output_kind`)."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[dict[int, Logprob] | None] | None = (
        None  # None for the first token: nothing precedes it
    )
    metrics: RequestMetrics | None = None
    lora_request: None = None
    num_cached_tokens: int = 0  # prompt tokens whose keys and values came from the prefix cache


@dataclass(frozen=True)
class EmbeddingOutput:
    """A vector of length 1 for a whole text."""

    embedding: list[float]

    @property
    def data(self) -> list[float]:
        """The same, by the name that `LLM.encode` uses."""
        return self.embedding


@dataclass
class EmbeddingRequestOutput:
    """What `LLM.embed` gives for one text."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    finished: bool = True
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0


@dataclass(frozen=True)
class BlockMap:
    """A snapshot of the KV cache's blocks, for pictures. Block 0 is the null block."""

    num_blocks: int
    block_size: int
    holders: Mapping[str, tuple[int, ...]]  # request id -> its physical blocks in logical order
    num_computed_tokens: Mapping[str, int]
    cached: frozenset[int] = frozenset()  # blocks that the prefix cache can find

    def filled(self) -> dict[int, int]:
        """Block id -> how many of its slots hold a token of a live request."""
        filled: dict[int, int] = {}
        for request_id, block_ids in self.holders.items():
            left = self.num_computed_tokens[request_id]
            for block_id in block_ids:
                filled[block_id] = max(filled.get(block_id, 0), min(self.block_size, left))
                left = max(0, left - self.block_size)
        return filled

    def owners(self) -> dict[int, list[str]]:
        """Block id -> the requests that hold it."""
        owners: dict[int, list[str]] = {}
        for request_id, block_ids in self.holders.items():
            for block_id in block_ids:
                owners.setdefault(block_id, []).append(request_id)
        return owners


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of the engine; the counters are totals since it was built."""

    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    kv_cache_usage: float = 0.0  # referenced share of the blocks, 0..1
    num_gpu_blocks: int = 0
    num_free_blocks: int = 0
    prefix_cache_queries: int = 0  # tokens looked up
    prefix_cache_hits: int = 0  # tokens found
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    num_step_tokens: int = 0  # that the latest step computed; no total
    num_drafts: int = 0  # times that drafts of a request were verified
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: tuple[int, ...] = ()  # how often draft number i was accepted
    finished: dict[str, int] = field(default_factory=dict)  # finish reason -> requests
