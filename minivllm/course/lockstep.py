"""Two control planes in lockstep: yours and the reference are told the same and have to decide alike.

No model and no memory: a control plane is a scheduler with its KV cache manager, and every decision that matters is in
the step that it hands to the worker.
"""

from __future__ import annotations

import textwrap
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.core.snapshot import block_map
from minivllm.core.step_checks import BrokenLawError, check_references, check_step
from minivllm.course.compare import Difference, compare_blocks, compare_steps, match_tables
from minivllm.parts import Parts
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import SamplingParams
from minivllm.viz.block_map import to_text

T = TypeVar("T")
WIDTH = 78  # of a terminal with 80 columns
RequestFields = dict[
    str, Any
]  # those of `Request` that the control plane looks at, where they are not the default


class DifferenceError(Exception):
    """Yours and the reference decided differently. The message shows both block maps."""

    def __init__(self, step: int, difference: Difference, law: str | None, maps: tuple[str, str]) -> None:
        self.step, self.kind, self.law = step, difference.kind, law
        sentences = [f"Step {step}: {difference.says}.", *([f"A law is broken: {law}."] if law else [])]
        shown = [f"Yours:\n{_indented(maps[0])}", f"The reference:\n{_indented(maps[1])}"]
        super().__init__("\n\n".join([*(textwrap.fill(sentence, WIDTH) for sentence in sentences), *shown]))


@dataclass(frozen=True)
class Sizes:
    """What a control plane is built from, besides the parts."""

    num_blocks: int
    block_size: int
    enable_caching: bool = True
    window: int | None = None
    num_swap_blocks: int = 0

    @classmethod
    def of(cls, manager: KVCacheManager) -> Sizes:
        """The sizes of a manager that is there."""
        return cls(
            manager.pool.num_blocks,
            manager.block_size,
            manager.enable_caching,
            manager.window,
            manager.swap_space.pool.num_blocks - 1,
        )

    def build(self, config: SchedulerConfig, parts: Parts) -> Scheduler:
        """A scheduler with its own manager."""
        manager = KVCacheManager(
            self.num_blocks,
            self.block_size,
            self.enable_caching,
            window=self.window,
            num_swap_blocks=self.num_swap_blocks,
            parts=parts,
        )
        return (parts.scheduler or Scheduler)(config, manager)


class Lockstep:
    """Tells two schedulers the same, and compares them after everything that they are told.

    Raises:
        DifferenceError: from any method, the first time that they differ.
    """

    def __init__(self, mine: Scheduler, reference: Scheduler) -> None:
        self.mine, self.reference = mine, reference
        self.num_steps = 0
        self._reference_steps: deque[SchedulerOutput] = deque()  # handed out, not yet returned

    def add(self, requests: Sequence[Request]) -> None:
        """Queue `requests` in yours, and twins of them in the reference. What yours refuses, nobody gets."""
        self.mine.add_requests(requests)
        twins: dict[str, Request] = {}
        for request in requests:
            twins[request.request_id] = make_request(fields_of(request), self.reference.requests | twins)
        self.reference.add_requests(list(twins.values()))

    def fork(self, parent: Request, child: Request) -> None:
        """A beam forks."""
        twin = make_request(fields_of(child), self.reference.requests)
        self._try(lambda: self.mine.fork_request(parent, child))
        self.reference.fork_request(self.reference.requests[parent.request_id], twin)
        self._compare()

    def finish(self, request_ids: Iterable[str], status: RequestStatus) -> list[Request]:
        """End requests from outside."""
        ids = list(request_ids)
        ended = self._try(lambda: self.mine.finish_requests(ids, status))
        self.reference.finish_requests(ids, status)
        self._compare()
        return ended

    def draft(self, draft_token_ids: Mapping[str, Sequence[int]]) -> None:
        """Both get drafts to verify in their next step."""
        self.reference.update_draft_token_ids(draft_token_ids)
        self._try(lambda: self.mine.update_draft_token_ids(draft_token_ids))

    def schedule(self) -> SchedulerOutput:
        """One step of each; returns yours."""
        self.num_steps += 1
        managers = self.mine.kv_cache_manager, self.reference.kv_cache_manager
        before, _ = match_tables(managers[0].tables(), managers[1].tables())
        reference = self.reference.schedule()
        mine = self._try(self.mine.schedule)
        after, _ = match_tables(managers[0].tables(), managers[1].tables())
        if difference := compare_steps(mine, reference, before, after) or compare_blocks(*managers):
            self._stop(difference, mine)
        try:
            check_step(managers[0], mine)
        except BrokenLawError as error:
            self._stop(
                Difference("law", "yours and the reference agree, but not with the law"), mine, str(error)
            )
        self._reference_steps.append(reference)
        return mine

    def update(self, step: SchedulerOutput, sampled: Mapping[str, Sequence[int]]) -> list[Any]:
        """Both take in the tokens of the oldest step that has not returned."""
        self.reference.update_from_output(self._reference_steps.popleft(), sampled)
        updates = self._try(lambda: self.mine.update_from_output(step, sampled))
        self._compare()
        return updates

    def _compare(self) -> None:
        if difference := compare_blocks(self.mine.kv_cache_manager, self.reference.kv_cache_manager):
            self._stop(difference)

    def _try(self, call: Callable[[], T]) -> T:
        """What `call` returns; an exception of your part is a difference like any other."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001  it is raised again, as what it means
            where = traceback.extract_tb(error.__traceback__)[-1]
            says = (
                f"yours raises {type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno}); "
                "the reference goes on"
            )
            self._stop(Difference(f"raises {type(error).__name__}", says.replace(": (", " (")), error=error)

    def _stop(
        self,
        difference: Difference,
        step: SchedulerOutput | None = None,
        law: str | None = None,
        error: Exception | None = None,
    ) -> NoReturn:
        manager = self.mine.kv_cache_manager
        try:
            if step is not None and law is None:
                check_step(manager, step)
            elif law is None:
                check_references(manager.pool, manager.tables().values())
        except (BrokenLawError, KeyError) as broken:
            law = str(broken) if isinstance(broken, BrokenLawError) and error is None else None
        maps = to_text(block_map(self.mine)), to_text(block_map(self.reference))
        raise DifferenceError(self.num_steps, difference, law, maps) from error


def fields_of(request: Request) -> RequestFields:
    """What the control plane must know of a request, as plain values that can be written into a file."""
    fields: RequestFields = {
        "request_id": request.request_id,
        "prompt_token_ids": list(request.prompt_token_ids),
        "max_tokens": request.max_tokens,
        "min_tokens": request.sampling_params.min_tokens,
        "stop_token_ids": sorted(request.stop_token_ids),
        "output_token_ids": list(request.output_token_ids),
        "fork_from": request.fork_from.request_id if request.fork_from is not None else None,
    }
    for name in ("priority", "cache_salt", "skip_prefix_cache", "is_beam"):
        fields[name] = getattr(request, name)
    return {name: value for name, value in fields.items() if value or name == "prompt_token_ids"}


def make_request(fields: RequestFields, others: Mapping[str, Request]) -> Request:
    """A request from `fields_of` one; a sibling that it forks from is found among `others`."""
    given = dict(fields)
    params = SamplingParams(max_tokens=given["max_tokens"], min_tokens=given.pop("min_tokens", 0))
    given["stop_token_ids"] = frozenset(given.get("stop_token_ids", ()))
    given["output_token_ids"] = list(given.get("output_token_ids", ()))
    given["fork_from"] = others.get(given.get("fork_from", ""))
    return Request(sampling_params=params, **given)


def _indented(text: str) -> str:
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="    ")
        for line in text.splitlines()
    )
