"""Another correct solution: a walk over a copy of the queue, and all questions before the answer."""

from minivllm.core.scheduler import Scheduler as Reference


class Scheduler(Reference):
    def _schedule_waiting(self, step):
        for request in list(self.waiting):
            if step.budget <= 0 or step.is_full or not self._has_seat():
                return
            if self._waits_for_a_block(request, step):
                continue
            if not self._admit(request, step):
                return

    def _admit(self, request, step):
        start = self.kv_cache_manager.find_start(request)
        fits = self.kv_cache_manager.can_fit(request.num_tokens, start.blocks)
        if not fits:
            step.is_short_of_blocks = True
        rest = request.num_tokens - start.num_computed_tokens
        count = self._num_tokens_to_schedule(request, step.budget, start.num_computed_tokens)
        may_come = fits and (self.config.enable_chunked_prefill or count == rest)
        if may_come:
            self._begin(request, start, count, step)
        return may_come
