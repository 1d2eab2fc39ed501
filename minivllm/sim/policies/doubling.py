"""Buddy growth: contiguous memory that knows nothing of the future. A chunk is doubled when it is full.

What this is: the growing array of every language's library, on a buddy allocator. No reservation to guess, but a price:
when the neighbouring buddy is taken, or lies below, all tokens written so far are copied, and up to half of every chunk
is empty. No system of the paper's figure 2 works so; it stands here as the best that contiguous memory does unaided.
"""

from __future__ import annotations

from minivllm.sim.allocators import BuddyAllocator, Extent, next_power_of_two
from minivllm.sim.policies.contiguous import contiguous_usage, hole_sizes, pieces
from minivllm.sim.trace import TraceRequest
from minivllm.sim.usage import Ledger, Piece, Usage


class DoublingPolicy:
    """Admits with the smallest power of two that holds the known tokens; doubles on demand; may have to preempt."""

    def __init__(self, capacity: int, name: str = "buddy") -> None:
        self.name = name
        self.capacity = capacity
        self.num_copied_tokens = 0
        self._allocator = BuddyAllocator(capacity)
        self._extents: dict[str, Extent] = {}
        self._ledger = Ledger()

    def check_fits_alone(self, request: TraceRequest) -> None:
        """See `MemoryPolicy`. Alone, a chunk can double: its buddy is free, or it is an arena and a larger is."""
        chunk = next_power_of_two(request.num_kv_tokens)
        largest = max(hole_sizes(self._allocator))
        if chunk > largest:
            raise ValueError(
                f"policy {self.name!r} needs a chunk of {chunk} tokens for request {request.request_id!r}, and the "
                f"largest of the {self.capacity} tokens is {largest}: raise capacity, or shorten it"
            )

    def admit(self, request: TraceRequest, num_tokens: int) -> bool:
        """See `MemoryPolicy`."""
        extent = self._allocator.allocate(num_tokens)
        if extent is None:
            return False
        self._extents[request.request_id] = extent
        self._ledger.open(request.request_id, request.num_kv_tokens, num_tokens, extent.size)
        return True

    def append(self, request_id: str) -> bool:
        """See `MemoryPolicy`. False: there is no chunk of twice the size."""
        account = self._ledger.accounts[request_id]
        if account.used == account.allocated and not self._double(request_id):
            return False
        self._ledger.write(request_id)
        return True

    def _double(self, request_id: str) -> bool:
        old = self._extents[request_id]
        new = self._allocator.double(old)
        if new is None:
            new = self._allocator.allocate(old.size * 2)
            if new is None:
                return False
            self._allocator.free(old)
        if new.start != old.start:
            self.num_copied_tokens += old.size
        self._extents[request_id] = new
        self._ledger.resize(request_id, new.size)
        return True

    def release(self, request_id: str) -> None:
        """See `MemoryPolicy`."""
        self._allocator.free(self._extents.pop(request_id))
        self._ledger.close(request_id)

    def usage(self, head: tuple[TraceRequest, int] | None) -> Usage:
        """See `MemoryPolicy`."""
        return contiguous_usage(self._ledger, self._allocator, head[1] if head is not None else 0)

    def layout(self) -> list[Piece]:
        """See `MemoryPolicy`. One piece per request."""
        return pieces(self._extents, self._ledger)
