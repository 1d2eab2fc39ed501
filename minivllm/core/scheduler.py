"""The scheduler: before each step it decides which requests run and how many of their tokens are computed.

There is one path, as in vLLM v1: no prefill phase and no decode phase, only requests that owe tokens and a budget of
tokens per step. A long prompt is simply cut at the budget (chunked prefill), a decoding request owes one token.
Sources: Orca (OSDI 2022) for iteration-level scheduling; Sarathi-Serve (OSDI 2024) for chunked prefill; PagedAttention
(SOSP 2023), section 4.5 for preemption.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.request import Request, RequestStatus


@dataclass(frozen=True)
class SchedulerConfig:
    """The limits of one step."""

    max_num_seqs: int = 256  # requests that run at the same time
    max_num_batched_tokens: int = 2048  # tokens computed in one step
    max_model_len: int = 2048  # prompt + output tokens of one request
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0  # > 0: one request gets at most so many tokens of a step that it shares


@dataclass(frozen=True)
class NewRequestData:
    """All that the worker must know of a request that starts, or starts again after a preemption."""

    request: Request
    token_ids: Sequence[int]
    block_ids: Sequence[int]


@dataclass(frozen=True)
class SchedulerOutput:
    """One step's work. A value: the worker reads it, nobody changes it. Block tables travel as differences."""

    num_scheduled_tokens: Mapping[str, int]  # request id -> tokens to compute now
    num_computed_tokens: Mapping[str, int]  # request id -> tokens in the cache before this step
    new_requests: Sequence[NewRequestData] = ()
    block_updates: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)  # (logical index, block id)
    spec_token_ids: Mapping[str, Sequence[int]] = field(default_factory=dict)  # drafts among the scheduled tokens
    copies: Sequence[tuple[int, int]] = ()  # (source, target) blocks, to be copied before anything is written
    preempted_request_ids: Sequence[str] = ()
    finished_request_ids: Sequence[str] = ()  # since the last step: the worker forgets them

    @property
    def total_num_scheduled_tokens(self) -> int:
        return sum(self.num_scheduled_tokens.values())


@dataclass(frozen=True)
class RequestUpdate:
    """What a step changed for one request."""

    request: Request
    new_token_ids: Sequence[int]
    new_logprobs: Sequence[object] | None = None


@dataclass
class _Step:
    """A SchedulerOutput in the making."""

    budget: int
    num_scheduled: dict[str, int] = field(default_factory=dict)
    num_computed: dict[str, int] = field(default_factory=dict)
    new_requests: list[NewRequestData] = field(default_factory=list)
    block_updates: dict[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    spec_token_ids: dict[str, Sequence[int]] = field(default_factory=dict)
    preempted: list[str] = field(default_factory=list)

    def add(self, request: Request, num_tokens: int) -> None:
        self.num_scheduled[request.request_id] = num_tokens
        self.num_computed[request.request_id] = request.num_computed_tokens
        self.budget -= num_tokens
        request.num_computed_tokens += num_tokens
        request.num_in_flight += 1


class Scheduler:
    """First come, first served, over one shared budget of tokens.

    Laws: a step never exceeds `max_num_batched_tokens` nor `max_num_seqs`; every admitted request finishes; running
    requests come before waiting ones; a preempted request goes to the head of the queue.
    """

    def __init__(self, config: SchedulerConfig, kv_cache_manager: KVCacheManager) -> None:
        self.config = config
        self.kv_cache_manager = kv_cache_manager
        self.requests: dict[str, Request] = {}
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_preemptions = 0
        self._finished_since_last_step: list[str] = []

    # -- requests come and go -----------------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        """Queue a request. Raises ValueError if it could never be held, even alone."""
        most = min(request.num_prompt_tokens + request.max_tokens - 1, self.config.max_model_len)
        room = self.kv_cache_manager.max_tokens_per_request
        if most > room:
            raise ValueError(
                f"the request may grow to {most} tokens in the KV cache, which holds {room} in all: "
                "shorten the prompt, lower max_tokens, or give the engine more blocks"
            )
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def finish_requests(self, request_ids: Iterable[str], status: RequestStatus) -> list[Request]:
        """End requests from outside (an abort, a stop string). Unknown and finished ids are ignored."""
        assert status.is_finished
        ended = [r for i in request_ids if (r := self.requests.get(i)) is not None and not r.status.is_finished]
        for request in ended:
            request.status = status
            if request.num_in_flight == 0:
                self._release(request)
        self._drop_finished(ended)
        return ended

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting or self.running)

    def has_work(self) -> bool:
        """Is there anything to schedule, or anything the worker was not yet told?"""
        return self.has_unfinished_requests() or bool(self._finished_since_last_step)

    # -- one step -----------------------------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput:
        """Decide the next step. `num_computed_tokens` of the scheduled requests is advanced here already."""
        step = _Step(budget=self.config.max_num_batched_tokens)
        self._schedule_running(step)
        if not step.preempted:  # somebody just lost its blocks: do not give them to a newcomer
            self._schedule_waiting(step)
        finished, self._finished_since_last_step = self._finished_since_last_step, []
        return SchedulerOutput(
            num_scheduled_tokens=step.num_scheduled,
            num_computed_tokens=step.num_computed,
            new_requests=step.new_requests,
            block_updates=step.block_updates,
            spec_token_ids=step.spec_token_ids,
            copies=self.kv_cache_manager.take_copies(),
            preempted_request_ids=step.preempted,
            finished_request_ids=finished,
        )

    def _schedule_running(self, step: _Step) -> None:
        index = 0
        while index < len(self.running) and step.budget > 0:
            request = self.running[index]
            num_tokens = self._num_tokens_to_schedule(request, request.num_computed_tokens, step.budget)
            if num_tokens > 0:
                updates = self._allocate_or_preempt(request, num_tokens, step)
                if updates is None:
                    break
                step.block_updates[request.request_id] = updates
                if request.spec_token_ids:
                    num_drafts = request.num_computed_tokens + num_tokens - request.num_tokens
                    step.spec_token_ids[request.request_id] = request.spec_token_ids[: max(0, num_drafts)]
                step.add(request, num_tokens)
            index += 1

    def _schedule_waiting(self, step: _Step) -> None:
        manager = self.kv_cache_manager
        while self.waiting and step.budget > 0 and len(self.running) < self.config.max_num_seqs:
            request = self.waiting[0]
            computed_blocks = manager.get_computed_blocks(request)
            num_computed = len(computed_blocks) * manager.block_size
            num_tokens = self._num_tokens_to_schedule(request, num_computed, step.budget)
            is_cut = num_computed + num_tokens < request.num_tokens
            if is_cut and not self.config.enable_chunked_prefill:
                break
            # The whole prompt must fit, not only this chunk: otherwise it would soon preempt, or be preempted.
            if not manager.can_fit(request.num_tokens, computed_blocks):
                break
            updates = manager.allocate_slots(request, num_tokens, computed_blocks)
            assert updates is not None, "can_fit promised room"
            self.waiting.popleft()
            self._admit(request, num_computed, step)
            step.add(request, num_tokens)

    def _admit(self, request: Request, num_computed: int, step: _Step) -> None:
        self.kv_cache_manager.record_lookup(request, num_computed)
        if request.first_scheduled_time is None:
            request.first_scheduled_time = time.monotonic()
            request.num_cached_tokens = num_computed
        request.num_computed_tokens = num_computed
        request.status = RequestStatus.RUNNING
        self.running.append(request)
        block_ids = self.kv_cache_manager.block_ids(request.request_id)
        step.new_requests.append(NewRequestData(request, request.all_token_ids, block_ids))

    def _num_tokens_to_schedule(self, request: Request, num_computed: int, budget: int) -> int:
        """What the request owes, cut to the budget, to its fair share and to the context."""
        owed = request.num_tokens_with_spec - num_computed
        threshold = self.config.long_prefill_token_threshold
        if threshold > 0 and len(self.running) + len(self.waiting) > 1:
            owed = min(owed, threshold)
        return min(owed, budget, self.config.max_model_len - num_computed)

    def _allocate_or_preempt(self, request: Request, num_tokens: int, step: _Step) -> Sequence[tuple[int, int]] | None:
        """Make room, at the cost of the request that came last. None: `request` itself had to go, or must wait."""
        while (updates := self.kv_cache_manager.allocate_slots(request, num_tokens)) is None:
            victim = self.running[-1]
            if victim.num_in_flight:  # its blocks are being read and written: wait for that step to return
                return None
            self._preempt(victim, step)
            if victim is request:
                return None
        return updates

    def _preempt(self, request: Request, step: _Step) -> None:
        """Preemption by recompute: all its blocks go, its tokens stay; the prefix cache may find some blocks again."""
        self.running.remove(request)
        self.kv_cache_manager.free(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.spec_token_ids = []
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(request)
        step.preempted.append(request.request_id)

    # -- a step returns -----------------------------------------------------------------------------------------------

    def update_from_output(
        self, scheduler_output: SchedulerOutput, sampled_token_ids: Mapping[str, Sequence[int]]
    ) -> list[RequestUpdate]:
        """Take in what a step computed.

        Args:
            scheduler_output: the step.
            sampled_token_ids: request id -> new tokens; none for a request whose prompt is not fully computed yet.
        """
        updates = []
        finished = []
        for request_id, num_scheduled in scheduler_output.num_scheduled_tokens.items():
            request = self.requests[request_id]
            request.num_in_flight -= 1
            if request.status.is_finished:  # ended from outside while the step ran
                if request.num_in_flight == 0:
                    self._release(request)
                continue
            sampled = sampled_token_ids.get(request_id, ())
            num_rejected = self._take_back_rejected(request, scheduler_output, len(sampled))
            num_computed = scheduler_output.num_computed_tokens[request_id] + num_scheduled - num_rejected
            new_token_ids = self._append_tokens(request, sampled)
            self.kv_cache_manager.cache_blocks(request, min(num_computed, request.num_tokens))
            if request.status.is_finished:
                self._release(request)
                finished.append(request)
            if new_token_ids:
                updates.append(RequestUpdate(request, new_token_ids))
        self._drop_finished(finished)
        return updates

    def _take_back_rejected(self, request: Request, scheduler_output: SchedulerOutput, num_sampled: int) -> int:
        """Draft tokens that the target model refused were computed in vain: their slots are written again."""
        num_drafts = len(scheduler_output.spec_token_ids.get(request.request_id, ()))
        num_rejected = num_drafts + 1 - num_sampled if num_drafts else 0
        request.num_computed_tokens -= num_rejected
        request.spec_token_ids = []
        return num_rejected

    def _append_tokens(self, request: Request, sampled: Sequence[int]) -> Sequence[int]:
        for index, token_id in enumerate(sampled):
            request.append_output_token(token_id)
            if request.check_stop(self.config.max_model_len):
                return sampled[: index + 1]
        return sampled

    def _release(self, request: Request) -> None:
        self.kv_cache_manager.forget(request)
        del self.requests[request.request_id]
        self._finished_since_last_step.append(request.request_id)

    def _drop_finished(self, finished: Sequence[Request]) -> None:
        if finished:
            self.running = [request for request in self.running if not request.status.is_finished]
            self.waiting = deque(request for request in self.waiting if not request.status.is_finished)
