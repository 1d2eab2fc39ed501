"""The step simulator: the engine's own Scheduler and KVCacheManager, with a cost model where the model would be.

Every decision is the real one: admission, chunking, preemption, block by block. Only the tokens are made up, and the
clock is computed. Static batching, the baseline, is the scheduler's own as well. It gets the better of every doubt: who
has its first token goes on while the rest of the batch comes in, and a slot whose request is done costs nothing, though
a real static batch computes padding there until its last request is done.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minivllm.core.block_table import cdiv
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.sim.schedule_config import ScheduleConfig
from minivllm.sim.trace import Trace, TraceRequest

if TYPE_CHECKING:
    from minivllm.core.scheduler_output import SchedulerOutput


@dataclass(frozen=True)
class StepRecord:
    """One step: a column of the Gantt chart."""

    start: float  # seconds
    duration: float
    num_tokens: dict[str, int]  # request id -> tokens computed
    prefill: frozenset[str]  # of these, who computed prompt (or recomputed) tokens, and not just its next one
    admitted: tuple[str, ...]
    preempted: tuple[str, ...]
    finished: tuple[str, ...]
    num_waiting: int  # queued when the step begins, after admission
    kv_usage: float  # share of blocks in use, 0..1, while the step runs

    @property
    def end(self) -> float:
        return self.start + self.duration


@dataclass
class RequestRecord:
    """One request's life, in seconds of the simulated clock."""

    request: TraceRequest
    first_scheduled: float = math.nan
    token_times: list[float] = field(default_factory=list)  # when each output token was there
    num_preemptions: int = 0

    @property
    def ttft(self) -> float:
        """Time to first token, from arrival."""
        return self.token_times[0] - self.request.arrival

    @property
    def e2e(self) -> float:
        """From arrival to the last token."""
        return self.token_times[-1] - self.request.arrival

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first; e2e = ttft + (n - 1) * tpot. None for a single token."""
        more = len(self.token_times) - 1
        return (self.token_times[-1] - self.token_times[0]) / more if more else None

    @property
    def gaps(self) -> list[float]:
        """The time between each two tokens (inter-token latency): where a stall shows that a mean hides."""
        return [b - a for a, b in zip(self.token_times, self.token_times[1:], strict=False)]


@dataclass(frozen=True)
class ScheduleResult:
    """What happened."""

    config: ScheduleConfig
    steps: tuple[StepRecord, ...]
    requests: dict[str, RequestRecord]  # in order of arrival


class StepSimulator:
    """One run of one trace.

    Raises:
        ValueError: a request that could never be held.
    """

    def __init__(self, trace: Trace, config: ScheduleConfig) -> None:
        for request in trace.requests:
            _check_fits(request, config)
        self.config = config
        num_blocks = config.capacity // config.block_size + 1  # one more: the null block
        self._manager = KVCacheManager(num_blocks, config.block_size, config.enable_prefix_caching)
        self._scheduler = Scheduler(config.scheduler_config(), self._manager)
        self._arriving = deque(trace.requests)
        self._num_added = 0
        self._records = {request.request_id: RequestRecord(request) for request in trace.requests}
        self._steps: list[StepRecord] = []
        self._now = 0.0  # seconds

    def run(self) -> ScheduleResult:
        """Play the trace to its end."""
        while self._arriving or self._scheduler.has_unfinished_requests():
            if not self._scheduler.has_unfinished_requests():
                self._now = max(self._now, self._arriving[0].arrival)
            while self._arriving and self._arriving[0].arrival <= self._now:
                self._scheduler.add_request(_engine_request(self._arriving.popleft(), self._num_added))
                self._num_added += 1
            self._step()
        return ScheduleResult(self.config, tuple(self._steps), self._records)

    def _step(self) -> None:
        output = self._scheduler.schedule()
        assert output.num_scheduled_tokens or output.preempted_request_ids, (
            "the scheduler has work and schedules none"
        )
        start, duration = self._now, 0.0
        if output.num_scheduled_tokens:
            duration = self.config.cost.step_time(output.num_scheduled_tokens, output.num_computed_tokens)
        kv_usage, num_waiting = self._manager.pool.usage, len(self._scheduler.waiting)
        prefill = frozenset(
            i for i, n in output.num_scheduled_tokens.items() if self._is_prefill(output, i, n)
        )
        self._now += duration
        self._steps.append(
            StepRecord(
                start=start,
                duration=duration,
                num_tokens=dict(output.num_scheduled_tokens),
                prefill=prefill,
                admitted=tuple(new.request.request_id for new in output.new_requests),
                preempted=tuple(output.preempted_request_ids),
                finished=self._take_in(output, start),
                num_waiting=num_waiting,
                kv_usage=kv_usage,
            )
        )

    def _is_prefill(self, output: SchedulerOutput, request_id: str, num_tokens: int) -> bool:
        known = self._scheduler.requests[request_id]
        return num_tokens > 1 or output.num_computed_tokens[request_id] < known.num_prompt_tokens

    def _take_in(self, output: SchedulerOutput, start: float) -> tuple[str, ...]:
        """Sample a token for everybody who has caught up, and tell the scheduler. Returns who is finished."""
        sampled = {}
        for request_id, num_tokens in output.num_scheduled_tokens.items():
            request = self._scheduler.requests[request_id]
            if output.num_computed_tokens[request_id] + num_tokens == request.num_tokens:
                sampled[request_id] = [0]
            record = self._records[request_id]
            if math.isnan(record.first_scheduled):
                record.first_scheduled = start
        for request_id in output.preempted_request_ids:
            self._records[request_id].num_preemptions += 1
        updates = self._scheduler.update_from_output(output, sampled)
        for update in updates:
            self._records[update.request.request_id].token_times.append(self._now)
        return tuple(update.request.request_id for update in updates if update.request.status.is_finished)


def simulate_schedule(trace: Trace, config: ScheduleConfig | None = None) -> ScheduleResult:
    """Play `trace` through the engine's scheduler.

    Raises:
        ValueError: a request that could never be held; the message says which, and what to change.
    """
    return StepSimulator(trace, config or ScheduleConfig()).run()


def _check_fits(request: TraceRequest, config: ScheduleConfig) -> None:
    total = request.prompt_len + request.output_len
    if total > config.max_model_len:
        raise ValueError(
            f"request {request.request_id!r} has {total} tokens, more than max_model_len ({config.max_model_len}): "
            "shorten it, or raise max_model_len"
        )
    if cdiv(request.num_kv_tokens, config.block_size) > config.capacity // config.block_size:
        raise ValueError(
            f"request {request.request_id!r} needs {request.num_kv_tokens} tokens of KV cache, and the blocks hold "
            f"{config.capacity // config.block_size * config.block_size}: raise capacity, or shorten the request"
        )


def _engine_request(request: TraceRequest, number: int) -> Request:
    """A prompt of made-up tokens: 0 where it is the same as all others', and a number of its own behind that."""
    own_len = request.prompt_len - request.shared_len
    return Request(
        request_id=request.request_id,
        prompt_token_ids=(0,) * request.shared_len + (number + 1,) * own_len,
        sampling_params=SamplingParams(max_tokens=request.output_len, ignore_eos=True),
        max_tokens=request.output_len,
        arrival_time=request.arrival,
        priority=request.priority,
    )
