"""Exercise 8.4: Preempt and recompute."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence

from minivllm.core.kv_cache_manager import KVCacheManager, Start
from minivllm.core.policies import POLICIES
from minivllm.core.rollback import num_rejected
from minivllm.core.scheduler import QueueFullError, SchedulerConfig
from minivllm.core.scheduler_output import NewRequestData, RequestUpdate, SchedulerOutput, StepBuilder
from minivllm.core.spec_decode_stats import SpecDecodeStats
from minivllm.core.static_batch import StaticBatch
from minivllm.request import Request, RequestStatus


class Scheduler:
    """Requests share one budget of tokens per step, in the order of a policy.

    Laws: a step never exceeds `max_num_batched_tokens` nor `max_num_seqs`; every admitted request finishes; running
    requests come before waiting ones; the request that comes last in the policy's order is preempted first.

    Bounds: once nobody is ahead of a request in the policy's order, it is finished after no more steps than it would
    need alone, ceil(prompt / budget) + max_tokens - 1, whatever comes behind it. With fcfs those ahead are those that
    came before: nobody starves. With priority a stream of urgent requests starves the others, and only while it lasts.
    Shortest-first stops nobody who runs, so those count as ahead, too; long requests may starve. With prefix caching a
    request that waits for a block that another is just computing lets later ones pass for that step.
    """

    def __init__(self, config: SchedulerConfig, kv_cache_manager: KVCacheManager) -> None:
        self.config = config
        self.kv_cache_manager = kv_cache_manager
        self.policy = POLICIES[config.policy]
        self.requests: dict[str, Request] = {}
        self.waiting: list[Request] = []  # both in the policy's order
        self.running: list[Request] = []
        self.static_batch = StaticBatch(config.max_num_seqs) if config.enable_static_batching else None
        self.num_preemptions = 0
        self.spec_decode_stats = SpecDecodeStats()
        self._num_arrived = 0
        self._finished_since_last_step: list[str] = []
        self._forked_since_last_step: list[Request] = []

    # -- requests come and go -----------------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        """Queue a request; see `add_requests`."""
        self.add_requests([request])

    def add_requests(self, requests: Sequence[Request]) -> None:
        """Queue requests that belong together (the choices of one prompt): all of them, or none.

        Raises:
            ValueError: one could never be held, even alone, or its id is in use.
            QueueFullError: too many are waiting already.
        """
        for request in requests:
            if request.request_id in self.requests:
                raise ValueError(
                    f"request_id {request.request_id!r} is in use by a request that has not finished"
                )
            most = min(request.num_prompt_tokens + request.max_tokens - 1, self.config.max_model_len)
            room = self.kv_cache_manager.max_tokens_per_request
            if most > room:
                raise ValueError(
                    f"the request may grow to {most} tokens in the KV cache, which holds {room} in all: "
                    "shorten the prompt, lower max_tokens, or give the engine more blocks"
                )
        limit = self.config.max_num_queued_reqs
        if limit is not None and len(self.waiting) + len(requests) > limit:
            raise QueueFullError(
                f"{len(self.waiting)} requests are waiting, and max_num_queued_reqs is {limit}"
            )
        for request in requests:
            self._num_arrived += 1
            request.arrival_number = self._num_arrived
            self.requests[request.request_id] = request
            insort(self.waiting, request, key=self.policy)

    def finish_requests(self, request_ids: Iterable[str], status: RequestStatus) -> list[Request]:
        """End requests from outside (an abort, a stop string). Unknown and finished ids are ignored."""
        assert status.is_finished
        ended = []
        for request_id in request_ids:
            request = self.requests.get(request_id)
            if request is None or request.status.is_finished:
                continue
            request.status = status
            ended.append(request)
            if request.num_in_flight == 0:
                self._release(request)
        self._drop_finished(ended)
        return ended

    def finish_expired(self, now: float) -> list[Request]:
        """Abort the requests whose deadline has passed."""
        expired = [i for i, r in self.requests.items() if r.deadline is not None and r.deadline <= now]
        return self.finish_requests(expired, RequestStatus.FINISHED_ABORTED)

    def fork_request(self, parent: Request, child: Request) -> None:
        """Let `child`, which has the parent's tokens and one more, run beside it on the parent's blocks.

        Where the parent has just lost its blocks, or all seats are taken, the child waits like any other request.
        """
        child.arrival_number = parent.arrival_number
        self.requests[child.request_id] = child
        if parent.status is RequestStatus.RUNNING and len(self.running) < self.config.max_num_seqs:
            self.kv_cache_manager.fork(parent, child, parent.num_computed_tokens)
            child.status = RequestStatus.RUNNING
            insort(self.running, child, key=self.policy)
            self._forked_since_last_step.append(child)
        else:
            insort(self.waiting, child, key=self.policy)

    def has_unfinished_requests(self) -> bool:
        """Does anybody still wait for tokens?"""
        return bool(self.waiting or self.running)

    @property
    def num_tokens_owed(self) -> int:
        """Tokens of unfinished requests that are yet to be computed, as far as they are known."""
        return sum(request.num_tokens - request.num_computed_tokens for request in self.requests.values())

    def has_work(self) -> bool:
        """Is there anything to schedule, or anything the worker was not yet told?"""
        return self.has_unfinished_requests() or bool(self._finished_since_last_step)

    # -- one step -----------------------------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput:
        """Decide the next step. `num_computed_tokens` of the scheduled requests is advanced here already."""
        share = -(-(len(self.running) + len(self.waiting)) // self.config.num_micro_batches)
        step = StepBuilder(budget=self.config.max_num_batched_tokens, max_requests=share)
        self._announce_forks(step)
        if self.config.policy == "priority" and self.static_batch is None:
            self._make_way_for_urgent(step)
        self._schedule_running(step)
        if self.static_batch is not None and not self.running:
            self.static_batch.open()
        if not step.is_short_of_blocks:
            self._schedule_waiting(step)
        if self.static_batch is not None and (step.is_short_of_blocks or not self.waiting):
            self.static_batch.close()
        if not step.num_scheduled and self.waiting and self.running and not self.running[-1].num_in_flight:
            # Beams that wait for a sibling, which waits for blocks that they hold: the last one gives way.
            self._preempt(self.running[-1], step)
        self._look_ahead(step)
        finished, self._finished_since_last_step = self._finished_since_last_step, []
        return step.build(self.kv_cache_manager.take_operations(), finished)

    def _announce_forks(self, step: StepBuilder) -> None:
        for request in self._forked_since_last_step:
            if request.status is RequestStatus.RUNNING:
                block_ids = self.kv_cache_manager.block_ids(request.request_id)
                step.new_requests.append(NewRequestData(request, request.all_token_ids, block_ids))
        self._forked_since_last_step = []

    def _schedule_running(self, step: StepBuilder) -> None:
        """Those that run come first, in order: each gets what it owes, as far as the budget and the blocks go."""
        index = 0
        while index < len(self.running) and not step.is_full:
            request = self.running[index]
            num_tokens = self._num_tokens_to_schedule(request, step.budget)
            if num_tokens > 0:
                updates = self._allocate_or_preempt(request, num_tokens, step)
                if updates is None:
                    break
                if updates:
                    step.block_updates[request.request_id] = updates
                self._add(request, num_tokens, step)
            index += 1

    def _schedule_waiting(self, step: StepBuilder) -> None:
        """Let waiting requests in, in order, until the step or the seats are full or the next one does not fit."""
        index = 0  # requests before it have been passed over in this step
        while index < len(self.waiting) and not step.is_full and self._has_seat():
            request = self.waiting[index]
            if self._waits_for_a_block(request, step):
                index += 1
            elif not self._admit(request, step):
                break

    def _admit(self, request: Request, step: StepBuilder) -> bool:
        """Start a waiting request, or go on with a preempted one. False if it does not fit now."""
        start = self.kv_cache_manager.find_start(request)
        # All its tokens must fit, not only this chunk: otherwise it would soon preempt somebody, or be preempted.
        if not self.kv_cache_manager.can_fit(request.num_tokens, start.blocks):
            step.is_short_of_blocks = True
            return False
        num_tokens = self._num_tokens_to_schedule(request, step.budget, start.num_computed_tokens)
        is_cut = start.num_computed_tokens + num_tokens < request.num_tokens
        if is_cut and not self.config.enable_chunked_prefill:
            return False
        self._begin(request, start, num_tokens, step)
        return True

    def _begin(self, request: Request, start: Start, num_tokens: int, step: StepBuilder) -> None:
        """Move an admitted request from the waiting to the running ones, with blocks for its first tokens."""
        manager = self.kv_cache_manager
        manager.begin(request, start, num_tokens)
        manager.record_lookup(request, start.num_computed_tokens)
        self.waiting.remove(request)
        insort(self.running, request, key=self.policy)
        if self.static_batch is not None:
            self.static_batch.take_seat()
        if request.first_scheduled_time is None:
            request.first_scheduled_time = time.monotonic()
            request.num_cached_tokens = start.num_computed_tokens
        request.status = RequestStatus.RUNNING
        block_ids = manager.block_ids(request.request_id)
        step.new_requests.append(NewRequestData(request, request.all_token_ids, block_ids))
        self._add(request, num_tokens, step)

    def _add(self, request: Request, num_tokens: int, step: StepBuilder) -> None:
        if request.spec_token_ids:
            num_drafts = request.num_computed_tokens + num_tokens - request.num_tokens
            step.spec_token_ids[request.request_id] = request.spec_token_ids[: max(0, num_drafts)]
        if request.is_beam and request.num_output_tokens:
            step.chosen_token_ids[request.request_id] = request.output_token_ids[-1]
        if self.waiting:  # nobody else asks
            step.pending_hashes.update(self.kv_cache_manager.hashes_computed_by(request, num_tokens))
        step.add(request, num_tokens)

    def _has_seat(self) -> bool:
        """May one more request run?"""
        is_closed = self.static_batch is not None and self.static_batch.num_seats_left == 0
        return not is_closed and len(self.running) < self.config.max_num_seqs

    def _waits_for_a_block(self, request: Request, step: StepBuilder) -> bool:
        """Is somebody computing, in this very step, what this request would otherwise compute again?"""
        sibling = request.fork_from
        if sibling is not None and sibling.status is RequestStatus.RUNNING and sibling.num_output_tokens == 0:
            return True
        if not step.pending_hashes or step.pending_hashes.isdisjoint(
            self.kv_cache_manager.hashes_of(request)
        ):
            return False
        num_found = len(self.kv_cache_manager.get_computed_blocks(request))
        return self.kv_cache_manager.next_hash(request, num_found) in step.pending_hashes

    def _num_tokens_to_schedule(self, request: Request, budget: int, num_computed: int | None = None) -> int:
        """What the request owes, cut to the budget, to its fair share and to the context."""
        if num_computed is None:
            num_computed = request.num_computed_tokens
        owed = request.num_tokens_with_spec - num_computed
        threshold = self.config.long_prefill_token_threshold if self.config.enable_chunked_prefill else 0
        if threshold > 0 and len(self.running) + len(self.waiting) > 1:
            owed = min(owed, threshold)
        return min(owed, budget, self.config.max_model_len - num_computed)

    # -- drafts -------------------------------------------------------------------------------------------------------

    def update_draft_token_ids(self, draft_token_ids: Mapping[str, Sequence[int]]) -> None:
        """Take in drafts: from here on they are tokens that their requests owe. Only running requests get any.

        A request gets no more drafts than it may still say, less the one token that verification always adds, and none
        beyond the free blocks: drafts are a guess, and not worth a preemption.
        """
        num_free = self.kv_cache_manager.pool.num_free_blocks
        for request_id, drafts in draft_token_ids.items():
            request = self.requests.get(request_id)
            if request is None or request.status is not RequestStatus.RUNNING:
                continue
            room, num_free = self._room_for_drafts(request, len(drafts), num_free)
            request.spec_token_ids = list(drafts[:room])

    def _room_for_drafts(self, request: Request, num_drafts: int, num_free: int) -> tuple[int, int]:
        """(how many of the drafts fit, free blocks that are left then)."""
        table = self.kv_cache_manager.tables()[request.request_id]
        block_size = self.kv_cache_manager.block_size
        num_drafts = min(num_drafts, request.max_tokens - request.num_output_tokens - 1)
        num_drafts = min(num_drafts, (len(table) + num_free) * block_size - request.num_tokens)
        num_new = max(0, -(-(request.num_tokens + num_drafts) // block_size) - len(table))
        return max(0, num_drafts), num_free - num_new

    def _look_ahead(self, step: StepBuilder) -> None:
        """Where a draft model will write: slots behind the scheduled tokens, as far as blocks are left over."""
        for request_id in step.num_scheduled if self.config.num_lookahead_tokens else ():
            request = self.requests[request_id]
            if request.num_computed_tokens < request.num_tokens or request.is_beam or request.is_pooling:
                continue  # nothing will be drafted
            num_left = request.num_prompt_tokens + request.max_tokens - 1 - request.num_computed_tokens
            num_slots = min(self.config.num_lookahead_tokens, num_left)
            if num_slots <= 0:
                continue
            updates = self.kv_cache_manager.allocate_slots(request, num_slots)
            if updates is not None:
                step.num_lookahead[request_id] = num_slots
                step.block_updates[request_id] = [*step.block_updates.get(request_id, ()), *updates]

    # -- preemption ---------------------------------------------------------------------------------------------------

    def _allocate_or_preempt(
        self, request: Request, num_tokens: int, step: StepBuilder
    ) -> Sequence[tuple[int, int]] | None:
        """Make room, at the cost of those that come last. None: `request` itself had to go, or must wait."""
        while (updates := self.kv_cache_manager.allocate_slots(request, num_tokens)) is None:
            victim = self.running[-1]
            if victim.num_in_flight:  # its blocks are being read and written: wait for that step to return
                return None
            self._preempt(victim, step)
            step.is_short_of_blocks = True
            if victim is request:
                return None
        return updates

    def _make_way_for_urgent(self, step: StepBuilder) -> None:
        """Preempt running requests of lower priority while the first waiting one lacks a seat or blocks."""
        while self.waiting and self.running:
            urgent, victim = self.waiting[0], self.running[-1]
            has_seat = len(self.running) < self.config.max_num_seqs
            start = self.kv_cache_manager.find_start(urgent)
            fits = self.kv_cache_manager.can_fit(urgent.num_tokens, start.blocks)
            if (has_seat and fits) or victim.priority <= urgent.priority or victim.num_in_flight:
                return
            self._preempt(victim, step)

    def _preempt(self, request: Request, step: StepBuilder) -> None:
        """Take a running request's blocks. Its tokens stay; the blocks are swapped out, or will be computed again."""
        self.running.remove(request)
        if not self._swap_out(request):
            self.kv_cache_manager.free(request)  # the prefix cache may still find some of them later
            request.num_computed_tokens = 0
        request.status = RequestStatus.PREEMPTED
        request.spec_token_ids = []
        request.num_preemptions += 1
        self.num_preemptions += 1
        insort(self.waiting, request, key=self.policy)
        step.preempted.append(request.request_id)

    def _swap_out(self, request: Request) -> bool:
        """Move its blocks to the swap space, if the mode says so. False: nothing has changed, recompute them."""
        return self._should_swap(request) and self.kv_cache_manager.swap_out(request)

    def _should_swap(self, request: Request) -> bool:
        mode, costs = self.config.preemption_mode, self.config.preemption_costs
        if mode != "auto" or costs is None:
            return mode == "swap"
        num_blocks = len(self.kv_cache_manager.tables()[request.request_id])
        return costs.swap_pays(request.num_computed_tokens, num_blocks)

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
        finished: list[Request] = []
        num_computed_before = scheduler_output.num_computed_tokens
        for request_id, num_scheduled in scheduler_output.num_scheduled_tokens.items():
            request = self.requests[request_id]
            request.num_in_flight -= 1
            status_before = request.status
            if status_before.is_finished:  # ended from outside while the step ran
                if request.num_in_flight == 0:
                    self._release(request)
                continue
            sampled = sampled_token_ids.get(request_id, ())
            rejected = 0
            if request.spec_token_ids or scheduler_output.spec_token_ids:
                rejected = self._take_back_rejected(request, scheduler_output, len(sampled))
            num_computed = num_computed_before[request_id] + num_scheduled - rejected
            new_token_ids = sampled if request.is_beam else self._append_tokens(request, sampled)
            self.kv_cache_manager.cache_blocks(request, min(num_computed, request.num_tokens))
            if request.status.is_finished:
                self._release(request)
                finished.append(request)
            elif rejected or request_id in scheduler_output.num_lookahead_tokens:
                self.kv_cache_manager.trim(request)
            if new_token_ids:
                updates.append(RequestUpdate(request, new_token_ids))
        self._drop_finished(finished)
        return updates

    def _take_back_rejected(
        self, request: Request, scheduler_output: SchedulerOutput, num_sampled: int
    ) -> int:
        """Draft tokens that the target model refused were computed in vain: their slots are written again."""
        num_drafts = len(scheduler_output.spec_token_ids.get(request.request_id, ()))
        request.spec_token_ids = []  # those that were not scheduled, too: they were guessed for another position
        if not num_drafts:
            return 0
        rejected = num_rejected(num_drafts, num_sampled)
        self.spec_decode_stats.observe(num_drafts, num_drafts - rejected)
        request.num_rejected_drafts += rejected
        request.num_computed_tokens -= rejected
        return rejected

    def _append_tokens(self, request: Request, sampled: Sequence[int]) -> Sequence[int]:
        for index, token_id in enumerate(sampled):
            request.output_token_ids.append(token_id)
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
            self.waiting = [request for request in self.waiting if not request.status.is_finished]
