"""How a step's T tokens are laid out: R requests, one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.worker.input_batch import InputBatch


@dataclass(frozen=True)
class StepLayout:
    """One entry for each request of the step."""

    rows: np.ndarray  # [R] row in the InputBatch
    num_scheduled: np.ndarray  # [R]
    num_computed: np.ndarray  # [R] before the step
    num_drafts: np.ndarray  # [R] among the scheduled tokens, at their end
    num_lookahead: np.ndarray  # [R] slots behind the scheduled tokens
    query_start_loc: np.ndarray  # [R + 1]
    repeats: bool = False  # all but num_computed is as in the step before

    @classmethod
    def of(cls, step: SchedulerOutput, rows: Mapping[str, int]) -> StepLayout:
        """Lay out a step; `rows`: request id -> row."""
        ids = step.num_scheduled_tokens
        none = np.zeros(len(ids), dtype=np.int64)

        def column(values: Mapping[str, int]) -> np.ndarray:
            return np.array([values[i] for i in ids], dtype=np.int64)

        def column_of_few(values: Mapping[str, int]) -> np.ndarray:
            return np.array([values.get(i, 0) for i in ids], dtype=np.int64) if values else none

        num_scheduled = column(ids)
        query_start_loc = np.zeros(len(ids) + 1, dtype=np.int64)
        num_scheduled.cumsum(out=query_start_loc[1:])
        return cls(
            rows=column(rows),
            num_scheduled=num_scheduled,
            num_computed=column(step.num_computed_tokens),
            num_drafts=column_of_few({i: len(drafts) for i, drafts in step.spec_token_ids.items()}),
            num_lookahead=column_of_few(step.num_lookahead_tokens),
            query_start_loc=query_start_loc,
        )

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.query_start_loc[-1])

    def repeated(self) -> StepLayout:
        """That of the next step, when it schedules the same for the same requests."""
        num_computed = self.num_computed + self.num_scheduled
        unchanged = (self.num_drafts, self.num_lookahead, self.query_start_loc)
        return StepLayout(self.rows, self.num_scheduled, num_computed, *unchanged, repeats=True)


class StepLayouts:
    """Lays out step after step. Most repeat the one before: another token for each of the same requests."""

    def __init__(self, batch: InputBatch) -> None:
        self._batch = batch
        self._last: tuple[int, Mapping[str, int], StepLayout] | None = None  # composition, tokens scheduled
        self._last_sampled: SampledPositions | None = None

    def of(self, step: SchedulerOutput) -> StepLayout:
        """As `StepLayout.of`."""
        scheduled, composition = step.num_scheduled_tokens, self._batch.composition
        is_plain = is_plain_decode(step)
        if is_plain and self._last is not None and self._last[:2] == (composition, scheduled):
            layout = self._last[2].repeated()
        else:
            layout = StepLayout.of(step, self._batch.rows)
        self._last = (composition, scheduled, layout) if is_plain else None
        return layout

    def sampled(self, layout: StepLayout) -> SampledPositions:
        """As `SampledPositions.of`. Requests that all got a token from such a step all get one from its repetition."""
        last = self._last_sampled
        if not layout.repeats or last is None or len(last.token) < len(layout.rows):
            last = SampledPositions.of(layout, self._batch.num_tokens[layout.rows])
        self._last_sampled = last
        return last


def is_plain_decode(step: SchedulerOutput) -> bool:
    """One token for each request, and nothing guessed."""
    is_one_each = step.total_num_scheduled_tokens == len(step.num_scheduled_tokens)
    return is_one_each and not step.spec_token_ids and not step.num_lookahead_tokens


@dataclass(frozen=True)
class SampledPositions:
    """The n positions of a step whose logits are wanted: a request's last known token, and each of its drafts."""

    counts: np.ndarray  # [r] positions of each of the r requests that have any
    rows: np.ndarray  # [n] row in the InputBatch
    offset: np.ndarray  # [n] 0 for the last known token, then 1, 2, ... for the drafts
    token: np.ndarray  # [n] place in the flat batch

    @classmethod
    def of(cls, layout: StepLayout, num_known: np.ndarray) -> SampledPositions:
        """`num_known` [R]: known tokens of each request. Requests whose last known token is yet to come have none."""
        ends = layout.num_computed + layout.num_scheduled
        num_requests = len(ends)
        if layout.num_tokens == num_requests and (ends == num_known).all():  # one token each: the usual step
            ones, zeros = np.ones(num_requests, dtype=np.int64), np.zeros(num_requests, dtype=np.int64)
            return cls(ones, layout.rows, zeros, layout.query_start_loc[:-1])
        done = np.flatnonzero(ends == num_known + layout.num_drafts)
        counts = layout.num_drafts[done] + 1
        first = np.repeat(counts.cumsum() - counts, counts)
        offset = np.arange(int(counts.sum())) - first
        start = layout.query_start_loc[1:][done] - counts
        return cls(counts, np.repeat(layout.rows[done], counts), offset, np.repeat(start, counts) + offset)
