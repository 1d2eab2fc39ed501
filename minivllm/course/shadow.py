"""The shadow: a scheduler part that runs yours for the engine, and the reference beside it in lockstep.

The engine knows nothing of it: `Parts(scheduler=shadow(mine, ...))` is a part like any other. At the first different
decision it makes the history smaller, writes it as a pytest file, and stops the engine.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.core.scheduler_output import RequestUpdate, SchedulerOutput
from minivllm.course.history import History, changed_fields, write_pytest_file
from minivllm.course.lockstep import WIDTH, DifferenceError, Lockstep, Sizes, fields_of
from minivllm.course.shrink import shrink
from minivllm.parts import CORE_PARTS, REFERENCE, Parts, files_of
from minivllm.request import Request, RequestStatus


def shadowed(mine: Parts, file: Path, tell: Callable[[str], None] = print) -> Parts:
    """`mine` with the shadow around its scheduler.

    Args:
        mine: your parts of the control plane, and the worker's, which are not compared here.
        file: where the failing test is written.
        tell: is given the report.
    """

    def make(config: SchedulerConfig, manager: KVCacheManager) -> Any:
        return ShadowScheduler(config, manager, mine, file, tell)

    make._part_files = files_of(mine.scheduler) if mine.scheduler is not None else []  # type: ignore[attr-defined]
    return replace(mine, scheduler=make)


class ShadowScheduler:
    """Looks like the scheduler of `mine` to the engine.

    Raises:
        DifferenceError: from any method, when yours and the reference differ for the first time.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        manager: KVCacheManager,
        mine: Parts,
        file: Path,
        tell: Callable[[str], None],
    ) -> None:
        sizes = Sizes.of(manager)
        self._mine = (mine.scheduler or Scheduler)(config, manager)
        self._pair = Lockstep(self._mine, sizes.build(config, REFERENCE))
        self._history = History(sizes, changed_fields(config))
        self._parts, self._file, self._tell = mine, file, tell
        self._has_ended = False  # by the first difference: what the engine says afterwards is for yours alone

    def __getattr__(self, name: str) -> Any:
        """What is only looked at is yours."""
        return getattr(self._mine, name)

    def add_request(self, request: Request) -> None:
        self.add_requests([request])

    def add_requests(self, requests: Sequence[Request]) -> None:
        self._pair.add(requests)
        self._history.record("add", [fields_of(request) for request in requests])

    def fork_request(self, parent: Request, child: Request) -> None:
        self._append_to_beams()
        self._history.record("fork", parent.request_id, fields_of(child))
        self._watch(lambda: self._pair.fork(parent, child))

    def finish_requests(self, request_ids: Iterable[str], status: RequestStatus) -> list[Request]:
        ids = [request_id for request_id in request_ids if request_id in self._mine.requests]
        if not ids:
            return []
        if self._has_ended:
            return self._mine.finish_requests(ids, status)
        self._history.record("finish", ids, status.name)
        ended: list[Request] = self._watch(lambda: self._pair.finish(ids, status))
        return ended

    def finish_expired(self, now: float) -> list[Request]:
        expired = [i for i, r in self._mine.requests.items() if r.deadline is not None and r.deadline <= now]
        return self.finish_requests(expired, RequestStatus.FINISHED_ABORTED)

    def schedule(self) -> SchedulerOutput:
        self._append_to_beams()
        self._history.record("steps", 1)
        step: SchedulerOutput = self._watch(self._pair.schedule)
        return step

    def update_from_output(
        self, scheduler_output: SchedulerOutput, sampled_token_ids: Mapping[str, Sequence[int]]
    ) -> list[RequestUpdate]:
        for request_id, tokens in sampled_token_ids.items():
            self._history.outputs.setdefault(request_id, []).extend(tokens)
        updates: list[RequestUpdate] = self._watch(
            lambda: self._pair.update(scheduler_output, sampled_token_ids)
        )
        return updates

    def update_draft_token_ids(self, draft_token_ids: Mapping[str, Sequence[int]]) -> None:
        self._history.record("draft", {i: list(tokens) for i, tokens in draft_token_ids.items()})
        self._watch(lambda: self._pair.draft(draft_token_ids))

    def _append_to_beams(self) -> None:
        """The beam search appends tokens to the engine's requests, and knows nothing of their twins."""
        for request_id, twin in self._pair.reference.requests.items():
            own = self._mine.requests.get(request_id, twin)
            for token_id in own.output_token_ids[twin.num_output_tokens :]:
                self._history.record("append", request_id, token_id)
                twin.append_output_token(token_id)

    def _watch(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except DifferenceError as difference:
            self._has_ended = True
            self._report(difference)
            raise

    def _report(self, difference: DifferenceError) -> None:
        history = shrink(self._history, self._parts)
        culprits = _culprits(history, self._parts)
        smaller = shrink(history, culprits)
        files = {name: files_of(getattr(culprits, name)) for name in culprits.replaced}
        write_pytest_file(self._file, smaller, files)
        says = (
            f"In step {difference.step} of this run your {' and '.join(files)} decided otherwise than the reference. "
            "The same in as few steps as possible:"
        )
        shown = smaller.replay(culprits) or difference
        self._tell(f"{textwrap.fill(says, WIDTH)}\n\n{shown}\n\nAs a test: python -m pytest {self._file}")


def _culprits(history: History, mine: Parts) -> Parts:
    """The fewest parts that still decide otherwise; the others are the reference's again."""
    guilty = replace(mine, **{name: None for name in mine.replaced if name not in CORE_PARTS})
    for name in guilty.replaced:
        without = replace(guilty, **{name: None})
        if without.replaced and history.replay(without) is not None:
            guilty = without
    return guilty
