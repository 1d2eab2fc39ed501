"""Exercise 14.5: Pick one idea. (measure, about 30 minutes)

The engine is first come, first served. A short question behind three long stories waits for the
stories. Can you do better?

Here is a scheduler with one method missing, `rank`: who comes first. That is the guided way; any
other idea that is a Scheduler may stand here instead (override what you like, PATIENCE included).
There is no one solution. You are graded by laws and by one figure: on the trace of this exercise
(minivllm/course/toy_load.py, `idea_load`, 40 requests, three seats, a budget of 8 tokens) the mean
number of steps from arrival to end has to be at most 80 % of what first come, first served takes.

And nobody may starve. One long request comes into an endless stream of short ones, more than the
engine can serve: it has to be done within 120 steps. Shortest first has the best mean, and fails
here.

max_tokens is what a request may say at most; in this exercise everybody says all of it. In life
they often do not.

Check: python -m minivllm.course check 14.5     (or: python -m pytest exercises/ch14_serving/idea.py)
Stuck: python -m minivllm.course hint 14.5
"""

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
        raise NotImplementedError("exercise 14.5: Idea.rank")
