"""LLMEngine: the loop that turns requests into tokens. `step()` is four verbs: schedule, execute, update, output."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minivllm.beam_search import BeamSearcher
from minivllm.config import EngineConfig, load_model_config
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.core.scheduler_output import RequestUpdate, SchedulerOutput
from minivllm.core.snapshot import block_map
from minivllm.core.step_checks import check_step
from minivllm.input_processor import InputProcessor, Prompt
from minivllm.output_processor import OutputProcessor
from minivllm.outputs import BlockMap, EmbeddingRequestOutput, EngineStats, RequestOutput
from minivllm.parts import REFERENCE, Parts
from minivllm.pooler import Pooler
from minivllm.pooling_params import PoolingParams
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import BeamSearchParams, SamplingParams
from minivllm.tokenizer import load_tokenizer
from minivllm.worker.executor import Executor, make_executor
from minivllm.worker.model_runner import ModelRunnerOutput

if TYPE_CHECKING:
    from minivllm.sampling.structured_output import StructuredOutputManager

logger = logging.getLogger(__name__)


class LLMEngine:
    """One model, one KV cache, one scheduler.

    Not thread-safe: one thread calls it (`AsyncLLMEngine` gives it a thread of its own).

    Args:
        config: the settings.
        parts: what replaces the reference parts. Where there is any, every step is checked from outside, and a step
        that breaks a law raises BrokenLawError instead of computing nonsense.

    Raises:
        ValueError: the configuration contradicts itself or the model.
    """

    def __init__(self, config: EngineConfig, parts: Parts = REFERENCE, replica: int = 0) -> None:
        self.config = config
        self.parts = parts
        self.model_config = load_model_config(config)
        self.tokenizer = load_tokenizer(config.tokenizer or str(self.model_config.path), config)
        wanted_len = self._check_max_model_len()
        self.executor: Executor = make_executor(config, self.model_config, wanted_len, parts, replica)
        self.max_model_len = self._fit_max_model_len(wanted_len)
        config.check_against(self.max_model_len)
        self.executor.initialize_kv_cache(self.max_model_len)
        self.kv_cache_manager = KVCacheManager(
            self.executor.num_blocks,
            config.block_size,
            config.enable_prefix_caching,
            window=_common_window(self.model_config.layer_windows),
            num_swap_blocks=self.executor.num_swap_blocks,
            parts=parts,
        )
        self.scheduler = (parts.scheduler or Scheduler)(self._scheduler_config(), self.kv_cache_manager)
        self.input_processor = InputProcessor(config, self.model_config, self.tokenizer, self.max_model_len)
        self.output_processor = OutputProcessor(self.tokenizer)
        self.beam_searcher = BeamSearcher(
            self.scheduler, self.tokenizer, self.model_config.eos_token_ids, self.max_model_len
        )
        self.pooler = Pooler(self.scheduler, self.model_config.hidden_size)
        self._grammars: StructuredOutputManager | None = None
        self._in_flight: deque[tuple[SchedulerOutput, Future[ModelRunnerOutput]]] = deque()
        self._num_requests = (
            replica << 40
        )  # a request without a seed gets one by its number: no two replicas share it
        self._num_prompt_tokens = 0
        self._num_generation_tokens = 0
        self._num_step_tokens = 0
        self._finished: Counter[str] = Counter()
        logger.debug("%s", self.describe_kv_cache())  # the server tells it in its own words

    # -- the loop -----------------------------------------------------------------------------------------------------

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        sampling_params: SamplingParams | BeamSearchParams | PoolingParams | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Queue a request.

        Args:
            request_id: names it until it has finished. prompt: text, token ids, or a dict with `prompt` or
            `prompt_token_ids`. sampling_params: None = SamplingParams(); BeamSearchParams start a beam search, whose
            one output comes at its end; PoolingParams ask for an embedding. priority: smaller is more urgent; only
            scheduling_policy "priority" looks at it. cache_salt: shares prefix blocks only with requests of the same
            salt. timeout: seconds after which it is aborted.

        Raises:
            ValueError: the prompt or a parameter does not suit this model; nothing was queued.
            QueueFullError: too many requests are waiting; nothing was queued.
        """
        params = SamplingParams() if sampling_params is None else sampling_params
        self.input_processor.check_call(request_id, params, priority, cache_salt, timeout)
        if any(request_id in owner for owner in (self.output_processor, self.beam_searcher, self.pooler)):
            raise ValueError(f"request_id {request_id!r} is in use by a request that has not finished")
        if isinstance(params, BeamSearchParams):
            text, token_ids = self.input_processor.tokenize(prompt, SamplingParams())
            self.input_processor.check(token_ids, SamplingParams())
            self.beam_searcher.add(request_id, text, token_ids, params, self.model_config.vocab_size)
            return
        if isinstance(params, PoolingParams):
            _, token_ids = self.input_processor.tokenize(prompt, SamplingParams())
            self.input_processor.check(token_ids, SamplingParams())
            self.pooler.add(request_id, token_ids, params, priority, cache_salt)
            return
        text, token_ids = self.input_processor.tokenize(prompt, params)
        self.input_processor.check(token_ids, params)
        grammar = self._compile_grammar(params)
        requests = self.input_processor.make_requests(request_id, token_ids, params, self._num_requests)
        for request in requests:
            request.priority, request.cache_salt = priority, cache_salt
            request.deadline = None if timeout is None else request.arrival_time + timeout
        self.scheduler.add_requests(requests)
        if grammar is not None:
            self._structured_outputs().add(requests, grammar)
        self.output_processor.add(request_id, text, requests)
        self._num_requests += len(requests)

    def abort_request(self, request_ids: str | Iterable[str]) -> list[RequestOutput]:
        """End requests at once; their blocks are free again. Unknown ids are ignored. Returns their last outputs."""
        ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
        for request_id in ids:
            self.beam_searcher.abort(request_id)
        choices = [choice for request_id in ids for choice in self.output_processor.choice_ids(request_id)]
        choices += [request_id for request_id in ids if self.pooler.abort(request_id)]
        return self._finish(self.scheduler.finish_requests(choices, RequestStatus.FINISHED_ABORTED))

    def step(self) -> list[RequestOutput | EmbeddingRequestOutput]:
        """Schedule, execute, update, output. Returns what is new to the callers; [] when there is nothing to do."""
        expired = self.start_steps()
        return [*expired, *self.finish_step()]

    def start_steps(self) -> list[RequestOutput]:
        """Bring as many steps under way as the executor takes at once. Returns the outputs of expired requests."""
        expired = self.scheduler.finish_expired(time.monotonic())
        while len(self._in_flight) < self.executor.max_concurrent_batches and self.scheduler.has_work():
            scheduler_output = self._with_grammars(self.scheduler.schedule())
            if self.parts.replaced:
                check_step(self.kv_cache_manager, scheduler_output)
            if self._in_flight and scheduler_output.is_empty:
                break  # everybody waits for a step that is under way
            self._in_flight.append((scheduler_output, self.executor.execute_model(scheduler_output)))
        return self._finish(expired)

    def finish_step(self) -> list[RequestOutput | EmbeddingRequestOutput]:
        """Wait for the oldest step under way, if there is one, and take in what it brought."""
        if not self._in_flight:
            return []
        scheduler_output, future = self._in_flight.popleft()
        self._num_step_tokens = scheduler_output.total_num_scheduled_tokens
        output = future.result()
        updates = self.scheduler.update_from_output(scheduler_output, output.sampled_token_ids)
        pooled, updates = self.pooler.take_in(updates, output)
        self._num_generation_tokens += sum(len(update.new_token_ids) for update in updates)
        sampled = [update for update in updates if not update.request.is_beam]
        stops, num_surplus = self.output_processor.take_in(sampled, output)
        self._num_generation_tokens -= num_surplus
        for request_id, stop in stops.items():
            for request in self.scheduler.finish_requests([request_id], RequestStatus.FINISHED_STOPPED):
                request.stop_reason = stop
        self._advance_grammars(sampled)
        if output.draft_token_ids:
            self._take_in_drafts(output.draft_token_ids)
        beam_outputs = self.beam_searcher.take_in(output)
        return [*self._finish([update.request for update in sampled]), *beam_outputs, *pooled]

    # -- structured output: llguidance is loaded when the first grammar comes ------------------------------------------

    def _structured_outputs(self) -> StructuredOutputManager:
        if self._grammars is None:
            from minivllm.sampling.structured_output import StructuredOutputManager

            if self.tokenizer is None:
                raise ValueError("structured_outputs needs a tokenizer, and the model folder has none")
            self._grammars = StructuredOutputManager(
                self.tokenizer, self.model_config.vocab_size, self.model_config.eos_token_ids
            )
        return self._grammars

    def _compile_grammar(self, params: SamplingParams) -> Any | None:
        if params.structured_outputs is None:
            return None
        return self._structured_outputs().compile(params.structured_outputs)

    def _with_grammars(self, scheduler_output: SchedulerOutput) -> SchedulerOutput:
        if self._grammars is None:
            return scheduler_output
        bitmasks = self._grammars.bitmasks(
            scheduler_output.num_scheduled_tokens, scheduler_output.spec_token_ids
        )
        return replace(scheduler_output, grammar_bitmasks=bitmasks)

    def _take_in_drafts(self, draft_token_ids: Mapping[str, Sequence[int]]) -> None:
        if self._grammars is not None:
            draft_token_ids = {i: self._grammars.cut(i, drafts) for i, drafts in draft_token_ids.items()}
        self.scheduler.update_draft_token_ids(draft_token_ids)

    def _advance_grammars(self, updates: Sequence[RequestUpdate]) -> None:
        if self._grammars is None:
            return
        for update in updates:
            end = self._grammars.advance(update.request, update.new_token_ids)
            if end is not None:
                self.scheduler.finish_requests([update.request.request_id], end)

    # -- the rest of the life of requests ------------------------------------------------------------------------------

    def has_unfinished_requests(self) -> bool:
        return self.scheduler.has_unfinished_requests() or bool(self._in_flight)

    @property
    def oldest_step(self) -> Future[ModelRunnerOutput] | None:
        """What `finish_step` would wait for."""
        return self._in_flight[0][1] if self._in_flight else None

    def reset_prefix_cache(self) -> bool:
        """Forget cached blocks; False while requests hold blocks."""
        return self.kv_cache_manager.reset_prefix_cache()

    def check_health(self) -> None:
        """Raise WorkerError if a process that holds a part of the model is gone."""
        self.executor.check_health()

    def check_integrity(self) -> None:
        """Assert that no block is lost and none is held: to be called while there is no unfinished request."""
        self.kv_cache_manager.check_integrity()
        held = ", ".join(self.kv_cache_manager.tables())
        assert not held, f"requests that have ended hold blocks: {held}"
        is_swapped = self.kv_cache_manager.swap_space.pool.usage > 0
        assert not is_swapped, "requests that have ended hold blocks of the swap space"

    def shutdown(self) -> None:
        """Free what the executor holds."""
        self.executor.shutdown()

    def _finish(self, requests: Sequence[Request]) -> list[RequestOutput]:
        if self._grammars is not None:
            self._grammars.discard(request for request in requests if request.status.is_finished)
        for request in requests:
            if request.status.finish_reason is not None:
                self._finished[request.status.finish_reason] += 1
                self._num_prompt_tokens += request.num_prompt_tokens if request.index == 0 else 0
        return self.output_processor.make_outputs(requests)

    # -- sizes --------------------------------------------------------------------------------------------------------

    def _check_max_model_len(self) -> int:
        limit, asked = self.model_config.max_position_embeddings, self.config.max_model_len
        if asked is not None and asked > limit:
            raise ValueError(
                f"max_model_len ({asked}) must be at most {limit}, the model's max_position_embeddings"
            )
        return asked or limit

    def _fit_max_model_len(self, wanted: int) -> int:
        """What was asked for must fit; what was not asked for is made to fit."""
        room = (self.executor.num_blocks - 1) * self.config.block_size
        if wanted <= room:
            return wanted
        if self.config.max_model_len is not None:
            raise ValueError(
                f"max_model_len ({wanted}) does not fit: the KV cache holds {room} tokens; lower max_model_len, "
                "or raise kv_cache_memory_bytes (num_gpu_blocks_override, if you set it)"
            )
        logger.warning(
            "max_model_len is lowered from %d to %d, which is what the KV cache holds", wanted, room
        )
        return room

    def _scheduler_config(self) -> SchedulerConfig:
        speculation = self.config.speculation
        num_lookahead = 0  # only a draft model writes ahead
        if speculation is not None and speculation.method == "draft_model":
            num_lookahead = speculation.num_speculative_tokens
        return SchedulerConfig(
            max_num_seqs=self.config.max_num_seqs,
            max_num_batched_tokens=self.config.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            enable_chunked_prefill=self.config.enable_chunked_prefill,
            long_prefill_token_threshold=self.config.long_prefill_token_threshold,
            policy=self.config.scheduling_policy,
            enable_static_batching=self.config.enable_static_batching,
            max_num_queued_reqs=self.config.max_num_queued_reqs,
            preemption_mode=self.config.preemption_mode,
            preemption_costs=self.executor.preemption_costs,
            num_micro_batches=self.executor.max_concurrent_batches,
            num_lookahead_tokens=num_lookahead,
        )

    # -- looking in ---------------------------------------------------------------------------------------------------

    def describe_kv_cache(self) -> str:
        """One line: blocks, tokens, and how many full-length requests fit."""
        num_blocks, block_size = self.executor.num_blocks, self.config.block_size
        num_tokens = (num_blocks - 1) * block_size
        return (
            f"KV cache: {num_blocks} blocks of {block_size} tokens = {num_tokens:,} tokens, room for "
            f"{num_tokens / self.max_model_len:.1f} requests of full length ({self.max_model_len:,} tokens)"
        )

    def stats(self) -> EngineStats:
        """Gauges now, counters since the start."""
        pool, cache = self.kv_cache_manager.pool, self.kv_cache_manager.stats
        drafts = self.scheduler.spec_decode_stats
        return EngineStats(
            num_running_reqs=len(self.scheduler.running),
            num_waiting_reqs=len(self.scheduler.waiting),
            kv_cache_usage=pool.usage,
            num_gpu_blocks=pool.num_blocks,
            num_free_blocks=pool.num_free_blocks,
            prefix_cache_queries=cache.queries,
            prefix_cache_hits=cache.hits,
            num_preemptions=self.scheduler.num_preemptions,
            num_prompt_tokens=self._num_prompt_tokens + self.pooler.num_prompt_tokens,
            num_generation_tokens=self._num_generation_tokens,
            num_step_tokens=self._num_step_tokens,
            num_drafts=drafts.num_drafts,
            num_draft_tokens=drafts.num_draft_tokens,
            num_accepted_tokens=drafts.num_accepted_tokens,
            num_accepted_tokens_per_pos=tuple(drafts.num_accepted_tokens_per_pos),
            finished=dict(self._finished + Counter(stop=self.pooler.num_finished)),
        )

    def block_map(self) -> BlockMap:
        """Who holds which block, and how far each is filled: one value for every picture."""
        return block_map(self.scheduler)


def _common_window(layer_windows: Sequence[int | None]) -> int | None:
    """The sliding window behind which blocks can be freed: the widest, if every layer has one."""
    windows = [window for window in layer_windows if window is not None]
    return max(windows) if windows and len(windows) == len(layer_windows) else None
