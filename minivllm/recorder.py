"""The recorder: stands around the engine's parts and writes down what it sees change.

It wraps methods of one object, from outside, for as long as it records, and compares block tables before and after each
call. It never asks a part what it did: a part that says one thing and does another is recorded doing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from minivllm.events import (
    Add,
    Alloc,
    Cache,
    Copy,
    Draft,
    Event,
    EventLog,
    Evict,
    Finish,
    Fork,
    Free,
    Hit,
    Preempt,
    Queue,
    Sample,
    Schedule,
    Trim,
    Write,
)
from minivllm.request import Request

if TYPE_CHECKING:
    from minivllm.core.kv_cache_manager import KVCacheManager
    from minivllm.core.scheduler import Scheduler
    from minivllm.core.scheduler_output import SchedulerOutput
    from minivllm.engine import LLMEngine


class Recorder:
    """Writes into `log` until `stop`. As a context manager it gives the log and stops at the end.

    Args:
        manager: whose blocks are watched.
        scheduler: whose decisions are recorded, too; None for a manager that is driven by hand.
        max_events: see `EventLog`.
        with_queue: also record the free queue after each change; costs time in proportion to its length.
    """

    def __init__(
        self,
        manager: KVCacheManager,
        scheduler: Scheduler | None = None,
        *,
        max_events: int | None = None,
        with_queue: bool = False,
    ) -> None:
        self.log = EventLog(manager.pool.num_blocks, manager.block_size, max_events)
        self.step = 0
        self._manager = manager
        self._with_queue = with_queue
        self._wrapped: list[tuple[object, str]] = []
        self._cached = {block.block_id for block in manager.pool.blocks if block.block_hash is not None}
        self._tables: dict[str, list[int]] = {}
        self._begin_in_the_middle(scheduler)
        self._watch_manager(manager)
        if scheduler is not None:
            self._watch_scheduler(scheduler)

    def __enter__(self) -> EventLog:
        return self.log

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the wrappers off again: the parts are as they were."""
        for part, name in self._wrapped:
            delattr(part, name)
        self._wrapped.clear()

    # -- around the parts ---------------------------------------------------------------------------------------------

    def _watch_manager(self, manager: KVCacheManager) -> None:
        self._wrap(manager, "allocate_slots", after=self._allocated)
        self._wrap(manager, "fork", after=self._forked)
        self._wrap(manager, "free", after=lambda _, request: self._compare(request.request_id))
        self._wrap(manager, "trim", after=self._trimmed)
        self._wrap(
            manager, "cache_blocks", after=lambda _, request, *__: self._look_for_cached(request.request_id)
        )
        self._wrap(manager, "reset_prefix_cache", after=lambda _: self._look_for_evicted(self._cached))

    def _watch_scheduler(self, scheduler: Scheduler) -> None:
        def count_step() -> None:
            self.step += 1

        def scheduled(output: SchedulerOutput) -> None:
            for request_id in output.preempted_request_ids:
                self._put(Preempt(self.step, request_id))
            for request_id, token_ids in output.spec_token_ids.items():
                if token_ids:
                    self._put(Draft(self.step, request_id, tuple(token_ids)))
            self._put(
                Schedule(
                    self.step,
                    dict(output.num_scheduled_tokens),
                    dict(output.num_computed_tokens),
                    scheduler.config.max_num_batched_tokens,
                    len(scheduler.waiting),
                )
            )

        self._wrap(scheduler, "add_requests", after=self._added)
        self._wrap(scheduler, "schedule", before=count_step, after=scheduled)
        self._wrap(
            scheduler,
            "update_from_output",
            before=self._sampled,
            after=lambda updates, *_: self._finished([update.request for update in updates]),
        )
        self._wrap(scheduler, "finish_requests", after=lambda ended, *_: self._finished(ended))

    def _wrap(
        self,
        part: object,
        name: str,
        before: Callable[..., None] | None = None,
        after: Callable[..., None] | None = None,
    ) -> None:
        """Call `before(*args)` and `after(result, *args)` around `part.name`, wherever it is called from."""
        original = getattr(part, name)

        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before(*args, **kwargs)
            result = original(*args, **kwargs)
            if after is not None:
                after(result, *args, **kwargs)
            return result

        setattr(part, name, call)
        self._wrapped.append((part, name))

    # -- what requests do ---------------------------------------------------------------------------------------------

    def _added(self, _: None, requests: Sequence[Request]) -> None:
        for request in requests:
            self._put(Add(self.step, request.request_id, request.num_prompt_tokens))

    def _sampled(self, _: SchedulerOutput, sampled_token_ids: Mapping[str, Sequence[int]]) -> None:
        for request_id, token_ids in sampled_token_ids.items():
            if token_ids:
                self._put(Sample(self.step, request_id, tuple(token_ids)))

    def _finished(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.status.finish_reason is not None:
                self._put(Finish(self.step, request.request_id, request.status.finish_reason))

    # -- what blocks do -----------------------------------------------------------------------------------------------

    def _begin_in_the_middle(self, scheduler: Scheduler | None) -> None:
        """What is there when the recording begins comes before every event."""
        base = self.log.base
        for request_id, table in self._manager.tables().items():
            self._tables[request_id] = base.tables[request_id] = table.block_ids
        if scheduler is not None:
            base.num_tokens = {i: scheduler.requests[i].num_computed_tokens for i in base.tables}
        base.cached = set(self._cached)
        if self._with_queue:
            base.queue = self._queue()

    def _allocated(
        self, updates: object, request: Request, num_new_tokens: int, computed_blocks: Sequence[object] = ()
    ) -> None:
        if updates is None:
            return
        self._compare(request.request_id)
        start = request.num_computed_tokens or len(computed_blocks) * self.log.block_size
        self._put(Write(self.step, request.request_id, start, start + num_new_tokens))

    def _trimmed(self, _: None, request: Request) -> None:
        """What counts of the request has become shorter, and its table perhaps, too."""
        old, new = self._tables[request.request_id], self._manager.block_ids(request.request_id)
        self._tables[request.request_id] = new
        gone = tuple(reversed(old[len(new) :]))
        self._put(Trim(self.step, request.request_id, request.num_computed_tokens, gone))
        if gone:
            self._look_at_queue()

    def _forked(self, _: None, parent: Request, child: Request, num_tokens: int) -> None:
        block_ids = self._manager.block_ids(child.request_id)
        self._tables[child.request_id] = block_ids
        self._put(Fork(self.step, child.request_id, parent.request_id, tuple(block_ids), num_tokens))

    def _compare(self, request_id: str) -> None:
        """Write down how the request's table differs from what it was."""
        table = self._manager.tables().get(request_id)
        old, new = self._tables.pop(request_id, []), [] if table is None else table.block_ids
        if table is None:
            self._free(request_id, old[::-1])
            return
        self._tables[request_id] = new
        changed = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
        self._free(request_id, [source for source, target in changed if target == 0])
        taken = new[len(old) :]
        self._look_for_evicted([*taken, *(target for _, target in changed)])
        hits = tuple(block_id for block_id in taken if block_id in self._cached)
        fresh = tuple(block_id for block_id in taken if block_id not in self._cached)
        events: list[Event] = [Hit(self.step, request_id, hits)] if hits else []
        events += [Alloc(self.step, request_id, fresh)] if fresh else []
        events += [Copy(self.step, request_id, source, target) for source, target in changed if target]
        for event in events:
            self._put(event)
        if events:
            self._look_at_queue()

    def _free(self, request_id: str, block_ids: Sequence[int]) -> None:
        block_ids = [block_id for block_id in block_ids if block_id]
        if block_ids:
            self._put(Free(self.step, request_id, tuple(block_ids)))
            self._look_at_queue()

    def _look_for_cached(self, request_id: str) -> None:
        found = [
            block_id
            for block_id in self._tables.get(request_id, [])
            if block_id not in self._cached and self._is_cached(block_id)
        ]
        if found:
            self._cached.update(found)
            self._put(Cache(self.step, request_id, tuple(found)))

    def _look_for_evicted(self, among: Sequence[int] | set[int]) -> None:
        gone = [block_id for block_id in among if block_id in self._cached and not self._is_cached(block_id)]
        if gone:
            self._cached.difference_update(gone)
            self._put(Evict(self.step, tuple(gone)))

    def _is_cached(self, block_id: int) -> bool:
        return self._manager.pool.blocks[block_id].block_hash is not None

    def _queue(self) -> tuple[int, ...]:
        queue = getattr(self._manager.pool, "free_queue", ())  # only the reference promises to have one
        return tuple(block.block_id for block in queue)

    def _look_at_queue(self) -> None:
        if self._with_queue:
            self._put(Queue(self.step, self._queue()))

    def _put(self, event: Event) -> None:
        self.log.append(event)


def record(engine: LLMEngine, *, max_events: int | None = None, with_queue: bool = False) -> Recorder:
    """Record an engine from now on: `with record(llm.llm_engine) as log: ...`. Arguments as in `Recorder`."""
    return Recorder(engine.kv_cache_manager, engine.scheduler, max_events=max_events, with_queue=with_queue)
