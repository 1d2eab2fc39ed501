"""Contiguous reservation: one extent per request, for its whole life, as large as a guess of its final length.

The guesses are the three of the paper's Orca baselines (PagedAttention, SOSP 2023, section 6.1): the longest the model
can do, the answer's length rounded up to a power of two, and the true length, which no real system knows.
"""

from __future__ import annotations

from collections.abc import Callable

from minivllm.sim.allocators import Allocator, Extent, next_power_of_two
from minivllm.sim.trace import TraceRequest
from minivllm.sim.usage import Ledger, Piece, Usage, count_usage

Guess = Callable[[TraceRequest, int], int]  # (request, max_model_len) -> tokens to reserve


def guess_max(request: TraceRequest, max_model_len: int) -> int:
    """Orca (Max): as if every request would fill the context."""
    return max_model_len


def guess_pow2(request: TraceRequest, max_model_len: int) -> int:
    """Orca (Pow2): at most twice too much for the answer; an answer of 25 tokens is given 32."""
    return min(request.prompt_len + next_power_of_two(request.output_len), max_model_len)


def guess_oracle(request: TraceRequest, max_model_len: int) -> int:
    """Orca (Oracle): exactly what will be written."""
    return request.num_kv_tokens


class ContiguousPolicy:
    """Reserves `guess` tokens at admission. Growing then never fails, and nobody is ever preempted."""

    def __init__(self, name: str, allocator: Allocator, guess: Guess, max_model_len: int) -> None:
        self.name = name
        self.capacity = allocator.capacity
        self.num_copied_tokens = 0
        self._allocator = allocator
        self._guess = guess
        self._max_model_len = max_model_len
        self._extents: dict[str, Extent] = {}
        self._ledger = Ledger()

    def check_fits_alone(self, request: TraceRequest) -> None:
        """See `MemoryPolicy`."""
        if request.num_kv_tokens > self._max_model_len:
            raise ValueError(
                f"request {request.request_id!r} needs {request.num_kv_tokens} tokens, more than max_model_len "
                f"({self._max_model_len}): shorten it, or raise max_model_len"
            )
        wanted = self._allocator.size_for(self._guess(request, self._max_model_len))
        largest = max(hole_sizes(self._allocator))
        if wanted > largest:
            raise ValueError(
                f"policy {self.name!r} reserves {wanted} tokens in one piece for request {request.request_id!r}, and "
                f"the largest piece of the {self.capacity} tokens is {largest}: raise capacity, or lower "
                "max_model_len"
            )

    def admit(self, request: TraceRequest, num_tokens: int) -> bool:
        """See `MemoryPolicy`."""
        asked = self._guess(request, self._max_model_len)
        extent = self._allocator.allocate(asked)
        if extent is None:
            return False
        self._extents[request.request_id] = extent
        self._ledger.open(
            request.request_id, request.num_kv_tokens, num_tokens, extent.size, rounding=extent.size - asked
        )
        return True

    def append(self, request_id: str) -> bool:
        """See `MemoryPolicy`. Always True: the slot is reserved."""
        self._ledger.write(request_id)
        return True

    def release(self, request_id: str) -> None:
        """See `MemoryPolicy`."""
        self._allocator.free(self._extents.pop(request_id))
        self._ledger.close(request_id)

    def usage(self, head: tuple[TraceRequest, int] | None) -> Usage:
        """See `MemoryPolicy`."""
        wanted = self._guess(head[0], self._max_model_len) if head is not None else 0
        return contiguous_usage(self._ledger, self._allocator, wanted)

    def layout(self) -> list[Piece]:
        """See `MemoryPolicy`. One piece per request."""
        return pieces(self._extents, self._ledger)


def contiguous_usage(ledger: Ledger, allocator: Allocator, wanted: int) -> Usage:
    """The usage of contiguous memory, while the head of the queue asks for `wanted` tokens (0 = nobody waits)."""
    size = allocator.size_for(wanted) if wanted else 0
    return count_usage(ledger.accounts.values(), hole_sizes(allocator), wanted, size)


def hole_sizes(allocator: Allocator) -> list[int]:
    """The sizes of an allocator's holes."""
    return [hole.size for hole in allocator.holes()]


def pieces(extents: dict[str, Extent], ledger: Ledger) -> list[Piece]:
    """One piece per request, by address."""
    found = []
    for request_id, extent in extents.items():
        account = ledger.accounts[request_id]
        found.append(Piece(request_id, extent.start, extent.size, account.used, account.reserved))
    return sorted(found, key=lambda piece: piece.start)
