"""MemoryPolicy: the five questions that the memory simulator asks of whoever manages the KV cache."""

from __future__ import annotations

from typing import Protocol

from minivllm.sim.trace import TraceRequest
from minivllm.sim.usage import Piece, Usage


class MemoryPolicy(Protocol):
    """Decides where the tokens of live requests lie.

    A refusal (False) changes nothing. A request that `check_fits_alone` accepts must be admitted when nobody else holds
    memory, and must then be able to grow to its end: that is what makes every simulation finish.
    """

    name: str
    capacity: int  # token slots
    num_copied_tokens: int  # so far, because a request's memory had to be moved

    def check_fits_alone(self, request: TraceRequest) -> None:
        """Raise ValueError, with a sentence, if the request could never be held. Asked while nothing is held."""
        ...

    def admit(self, request: TraceRequest, num_tokens: int) -> bool:
        """Make room for a request and write its `num_tokens` known tokens: the prompt, and more after a preemption."""
        ...

    def append(self, request_id: str) -> bool:
        """Write one more token of a live request, making room if need be."""
        ...

    def release(self, request_id: str) -> None:
        """The request finished or was preempted: take everything back."""
        ...

    def usage(self, head: tuple[TraceRequest, int] | None) -> Usage:
        """Every slot by class. `head`: who waits at the head of the queue, and how many tokens it would begin with."""
        ...

    def layout(self) -> list[Piece]:
        """Who lies where, by address."""
        ...
