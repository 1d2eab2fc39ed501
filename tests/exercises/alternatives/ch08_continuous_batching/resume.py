"""Another correct fix: what is owed is counted from the list of all tokens, whoever asks."""

from minivllm.core.scheduler import Scheduler as Reference


class Scheduler(Reference):
    def _num_tokens_to_schedule(self, request, budget, num_computed=None):
        done = request.num_computed_tokens if num_computed is None else num_computed
        known = [*request.all_token_ids, *request.spec_token_ids]
        threshold = self.config.long_prefill_token_threshold
        is_alone = len(self.running) + len(self.waiting) == 1
        if not threshold or is_alone or not self.config.enable_chunked_prefill:
            threshold = budget
        return min(len(known[done:]), threshold, budget, self.config.max_model_len - done)
