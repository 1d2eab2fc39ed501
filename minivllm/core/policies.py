"""Who comes first: the order of the waiting queue, and its reverse, the order in which running requests are preempted.

A policy is a key; the request with the smallest key runs first and is preempted last. Keys never change while a request
lives, so both queues stay sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from minivllm.request import Request

SchedulingPolicy = Callable[[Request], tuple[int, ...]]


def fcfs(request: Request) -> tuple[int, ...]:
    """First come, first served. No request is ever overtaken by a later one, so none starves."""
    return (request.arrival_number,)


def priority(request: Request) -> tuple[int, ...]:
    """Smaller numbers first, then first come. A stream of urgent requests starves the others: that is its point."""
    return (request.priority, request.arrival_number)


def shortest_first(request: Request) -> tuple[int, ...]:
    """Least work first: prompt and output limit. The best mean waiting time, and no bound for the longest request."""
    return (request.num_prompt_tokens + request.max_tokens, request.arrival_number)


POLICIES: Mapping[str, SchedulingPolicy] = {
    "fcfs": fcfs,
    "priority": priority,
    "shortest-first": shortest_first,
}
