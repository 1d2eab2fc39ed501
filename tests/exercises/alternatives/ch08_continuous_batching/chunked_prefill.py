"""Another correct solution: limits collected in a list, and a walk over a copy of the running requests."""

from minivllm.core.scheduler import Scheduler as Reference
from minivllm.request import RequestStatus


class Scheduler(Reference):
    def _schedule_running(self, step):
        for request in tuple(self.running):
            if request.status is not RequestStatus.RUNNING:
                continue  # it has just been preempted
            if step.is_full:
                return
            count = self._num_tokens_to_schedule(request, step.budget)
            if count <= 0:
                continue
            changes = self._allocate_or_preempt(request, count, step)
            if changes is None:
                return
            step.block_updates[request.request_id] = changes
            self._add(request, count, step)

    def _num_tokens_to_schedule(self, request, budget, num_computed=None):
        done = request.num_computed_tokens if num_computed is None else num_computed
        limits = [request.num_tokens + len(request.spec_token_ids) - done]
        limits += [budget, self.config.max_model_len - done]
        others = len(self.running) + len(self.waiting) - 1
        if self.config.enable_chunked_prefill and self.config.long_prefill_token_threshold and others > 0:
            limits.append(self.config.long_prefill_token_threshold)
        return min(limits)
