"""Another correct solution: asks, preempts one, and asks again by calling itself."""

from minivllm.core.scheduler import Scheduler as Reference
from minivllm.request import RequestStatus


class Scheduler(Reference):
    def _allocate_or_preempt(self, request, num_tokens, step):
        updates = self.kv_cache_manager.allocate_slots(request, num_tokens)
        if updates is not None:
            return updates
        last = self.running[-1]
        if last.num_in_flight > 0:
            return None
        step.is_short_of_blocks = True
        self._preempt(last, step)
        return None if last is request else self._allocate_or_preempt(request, num_tokens, step)

    def _preempt(self, request, step):
        step.preempted.append(request.request_id)
        self.num_preemptions += 1
        request.num_preemptions += 1
        request.status = RequestStatus.PREEMPTED
        request.spec_token_ids = []
        if not self._swap_out(request):
            request.num_computed_tokens = 0
            self.kv_cache_manager.free(request)
        self.running = [other for other in self.running if other is not request]
        self.waiting = sorted([*self.waiting, request], key=self.policy)
