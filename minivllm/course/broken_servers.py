"""Schedulers with one bug each, such as serving brings to light: for load tests that have to catch them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import RequestUpdate, SchedulerOutput, StepBuilder
from minivllm.request import Request, RequestStatus


class KeepsBlocks(Scheduler):
    """The blocks of a request whose client leaves are never given back."""

    def _keeps(self, request: Request) -> bool:
        return True

    def finish_requests(self, request_ids: Iterable[str], status: RequestStatus) -> list[Request]:
        """As in Scheduler, but for the bug."""
        ended = []
        for request_id in request_ids:
            request = self.requests.get(request_id)
            if request is None or not self._keeps(request):
                ended += super().finish_requests([request_id], status)
                continue
            request.status = status
            del self.requests[request_id]
            self._finished_since_last_step.append(request_id)
            self._drop_finished([request])
            ended.append(request)
        return ended


class KeepsBlocksOfPrompts(KeepsBlocks):
    """The same, only where the client leaves before the first token."""

    def _keeps(self, request: Request) -> bool:
        return request.status is RequestStatus.RUNNING and not request.num_output_tokens


class EndsTheNeighbour(Scheduler):
    """When a client leaves, the last request that runs ends with it."""

    def finish_requests(self, request_ids: Iterable[str], status: RequestStatus) -> list[Request]:
        """As in Scheduler, but for the bug."""
        neighbours = [request.request_id for request in self.running[-1:]]
        return super().finish_requests([*request_ids, *neighbours], status)


class IgnoresWhoWaits(Scheduler):
    """A client that leaves while its request waits is not noticed: the request is served to its end."""

    def finish_requests(self, request_ids: Iterable[str], status: RequestStatus) -> list[Request]:
        """As in Scheduler, but for the bug."""
        waiting = {request.request_id for request in self.waiting}
        return super().finish_requests([name for name in request_ids if name not in waiting], status)


class LosesThePreempted(Scheduler):
    """A preempted request is in no queue any more."""

    def _preempt(self, request: Request, step: StepBuilder) -> None:
        super()._preempt(request, step)
        self.waiting.remove(request)


class EndsThePreemptedEarly(Scheduler):
    """A preempted request says one token less."""

    def _preempt(self, request: Request, step: StepBuilder) -> None:
        super()._preempt(request, step)
        request.max_tokens = max(request.num_output_tokens + 1, request.max_tokens - 1)


class LosesABlock(Scheduler):
    """With every preemption one block is lost, as long as that does no other harm."""

    def _preempt(self, request: Request, step: StepBuilder) -> None:
        super()._preempt(request, step)
        if self.num_preemptions == 1:
            self.kv_cache_manager.pool.get_new_blocks(1)


class SwapsAnswers(Scheduler):
    """Where three requests get a token in one step, the first two get each other's."""

    def update_from_output(
        self, scheduler_output: SchedulerOutput, sampled_token_ids: Mapping[str, Sequence[int]]
    ) -> list[RequestUpdate]:
        """As in Scheduler, but for the bug."""
        sampled = dict(sampled_token_ids)
        if len(sampled) >= 3:
            one, other, *_ = sampled
            sampled[one], sampled[other] = sampled[other], sampled[one]
        return super().update_from_output(scheduler_output, sampled)


BROKEN = (
    KeepsBlocks,
    KeepsBlocksOfPrompts,
    EndsTheNeighbour,
    IgnoresWhoWaits,
    LosesThePreempted,
    EndsThePreemptedEarly,
    LosesABlock,
    SwapsAnswers,
)
