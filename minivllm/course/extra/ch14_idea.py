"""One idea of your own in the scheduler: who comes first."""

from __future__ import annotations

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.request import Request

PATIENCE = 1  # tokens of work that a place in the queue is worth


class Idea(Scheduler):
    """The engine's scheduler, with another order of the requests. Override more of it if your idea needs it."""

    def __init__(self, config: SchedulerConfig, kv_cache_manager: KVCacheManager) -> None:
        super().__init__(config, kv_cache_manager)
        self.policy = self.rank

    def rank(self, request: Request) -> tuple[int, ...]:
        """The request with the smallest rank runs first and is preempted last. It never changes while a request lives.

        Useful: request.arrival_number (1, 2, 3 ...), request.num_prompt_tokens, request.max_tokens.
        """
        work = request.num_prompt_tokens + request.max_tokens
        return (work + PATIENCE * request.arrival_number, request.arrival_number)
