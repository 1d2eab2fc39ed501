"""Exercise 14.5, otherwise: two classes, and a long request lets so many places pass."""

from minivllm.core.scheduler import Scheduler

PATIENCE = 25


class Idea(Scheduler):
    def __init__(self, config, kv_cache_manager):
        super().__init__(config, kv_cache_manager)
        self.policy = self.rank

    def rank(self, request):
        is_long = request.num_prompt_tokens + request.max_tokens > 14
        return (request.arrival_number + PATIENCE * is_long, request.arrival_number)
