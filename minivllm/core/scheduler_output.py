"""The values that travel between the scheduler and the worker: one step's work, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from minivllm.request import Request


@dataclass(frozen=True)
class NewRequestData:
    """All that the worker must know of a request that starts, or starts again after a preemption."""

    request: Request
    token_ids: Sequence[int]
    block_ids: Sequence[int]


@dataclass(frozen=True)
class BlockOperations:
    """Block copies of a step as (source, target) ids, done before anything is written, in the order of these fields."""

    swap_out: Sequence[tuple[int, int]] = ()  # from the KV cache to the swap space
    swap_in: Sequence[tuple[int, int]] = ()  # from the swap space to the KV cache
    copy: Sequence[tuple[int, int]] = ()  # inside the KV cache (copy-on-write)


@dataclass(frozen=True)
class SchedulerOutput:
    """One step's work. A value: the worker reads it, nobody changes it. Block tables travel as differences."""

    num_scheduled_tokens: Mapping[str, int]  # request id -> tokens to compute now
    num_computed_tokens: Mapping[str, int]  # request id -> tokens in the cache before this step
    new_requests: Sequence[NewRequestData] = ()
    block_updates: Mapping[str, Sequence[tuple[int, int]]] = field(
        default_factory=dict
    )  # (logical index, block id)
    block_operations: BlockOperations = BlockOperations()
    spec_token_ids: Mapping[str, Sequence[int]] = field(
        default_factory=dict
    )  # drafts among the scheduled tokens
    num_lookahead_tokens: Mapping[str, int] = field(
        default_factory=dict
    )  # slots behind the scheduled tokens, where a draft model may write
    chosen_token_ids: Mapping[str, int] = field(
        default_factory=dict
    )  # last token of beams, in place of a sampled one
    grammar_bitmasks: Mapping[str, bytes] = field(
        default_factory=dict
    )  # packed bits of the tokens that may follow
    preempted_request_ids: Sequence[str] = ()
    finished_request_ids: Sequence[str] = ()  # since the last step: the worker forgets them

    @property
    def total_num_scheduled_tokens(self) -> int:
        """T, the size of the step's flat batch."""
        return sum(self.num_scheduled_tokens.values())

    @property
    def is_empty(self) -> bool:
        """Nothing to compute, and nothing to tell the worker."""
        operations = self.block_operations
        return not (
            self.num_scheduled_tokens
            or self.new_requests
            or self.preempted_request_ids
            or self.finished_request_ids
            or operations.swap_out
            or operations.swap_in
            or operations.copy
        )


class RequestUpdate(NamedTuple):
    """What a step changed for one request."""

    request: Request
    new_token_ids: Sequence[int]


class StepBuilder:
    """A SchedulerOutput in the making: what is scheduled so far, and what is left of the budget."""

    def __init__(self, budget: int, max_requests: int) -> None:
        self.budget = budget
        self.max_requests = max_requests
        self.is_short_of_blocks = False  # somebody was preempted, or could not be admitted: nobody else is
        self.num_scheduled: dict[str, int] = {}
        self.num_computed: dict[str, int] = {}
        self.new_requests: list[NewRequestData] = []
        self.block_updates: dict[str, Sequence[tuple[int, int]]] = {}
        self.spec_token_ids: dict[str, Sequence[int]] = {}
        self.num_lookahead: dict[str, int] = {}
        self.chosen_token_ids: dict[str, int] = {}
        self.preempted: list[str] = []
        self.pending_hashes: set[bytes] = set()  # blocks that this step computes

    @property
    def is_full(self) -> bool:
        """No further request can be scheduled."""
        return self.budget <= 0 or len(self.num_scheduled) >= self.max_requests

    def add(self, request: Request, num_tokens: int) -> None:
        """Schedule `num_tokens` tokens of `request`; they count as computed from here on."""
        request_id, num_computed = request.request_id, request.num_computed_tokens
        self.num_scheduled[request_id] = num_tokens
        self.num_computed[request_id] = num_computed
        self.budget -= num_tokens
        request.num_computed_tokens = num_computed + num_tokens
        request.num_in_flight += 1

    def build(self, operations: BlockOperations, finished: Sequence[str]) -> SchedulerOutput:
        """Seal the step."""
        return SchedulerOutput(
            num_scheduled_tokens=self.num_scheduled,
            num_computed_tokens=self.num_computed,
            new_requests=self.new_requests,
            block_updates=self.block_updates,
            block_operations=operations,
            spec_token_ids=self.spec_token_ids,
            num_lookahead_tokens=self.num_lookahead,
            chosen_token_ids=self.chosen_token_ids,
            preempted_request_ids=self.preempted,
            finished_request_ids=finished,
        )
