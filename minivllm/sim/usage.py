"""Usage: every token slot of a KV cache in exactly one of five classes, and the ledger that counts them.

    used      holds a token's keys and values
    reserved  allocated to a request that will write it later
    internal  allocated to a request that will never write it
    external  not allocated, but in pieces: the head of the queue would fit into their sum, and fits into none of them
    free      not allocated, and none of the above

used + internal + reserved + external + free = capacity, at every event. Source: PagedAttention (SOSP 2023), 3.1.
That paper draws `external` and `free` as one class, "external fragmentation and others"; we keep them apart, as memory
that is merely full is not fragmented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

CLASSES = ("used", "reserved", "internal", "external", "free")


class Usage(NamedTuple):
    """Token slots by class."""

    used: int
    reserved: int
    internal: int
    external: int
    free: int
    rounding: int = 0  # of `internal`: what the allocator added to the size that was asked for

    @property
    def capacity(self) -> int:
        return self.used + self.reserved + self.internal + self.external + self.free

    @property
    def allocated(self) -> int:
        return self.used + self.reserved + self.internal


class Piece(NamedTuple):
    """Part of a request's memory, as a picture draws it: `size` slots from `start`, written ones first."""

    request_id: str
    start: int
    size: int
    used: int
    reserved: int

    @property
    def internal(self) -> int:
        return self.size - self.used - self.reserved


@dataclass(slots=True)
class Account:
    """What one request holds, in tokens."""

    need: int  # how many it will have written when it finishes
    used: int = 0
    allocated: int = 0
    rounding: int = 0

    @property
    def reserved(self) -> int:
        return min(self.allocated, self.need) - self.used

    @property
    def internal(self) -> int:
        return max(0, self.allocated - self.need)


class Ledger:
    """The accounts of all live requests, and their totals, kept up to date so that every event costs the same.

    The accounts know the future (`need`), which only the accounting does: it is what tells reserved from internal.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.used = self.reserved = self.internal = self.rounding = 0

    def open(self, request_id: str, need: int, used: int, allocated: int, rounding: int = 0) -> None:
        """Begin an account: `allocated` slots, of which `used` are written at once."""
        assert request_id not in self.accounts, f"request {request_id} holds memory already"
        self.accounts[request_id] = account = Account(need, used, allocated, rounding)
        assert used <= min(allocated, need), (
            f"request {request_id} writes {used} tokens into {allocated} slots"
        )
        self._count(account, 1)

    def write(self, request_id: str) -> None:
        """One more token in a slot that is allocated already."""
        account = self.accounts[request_id]
        assert account.used < min(account.allocated, account.need), (
            f"request {request_id} has no slot to write to"
        )
        account.used += 1
        self.used += 1
        self.reserved -= 1

    def resize(self, request_id: str, allocated: int, rounding: int = 0) -> None:
        """The request now holds `allocated` slots."""
        account = self.accounts[request_id]
        self._count(account, -1)
        account.allocated, account.rounding = allocated, rounding
        self._count(account, 1)

    def close(self, request_id: str) -> None:
        """The request holds nothing any more."""
        self._count(self.accounts.pop(request_id), -1)

    def _count(self, account: Account, sign: int) -> None:
        self.used += sign * account.used
        self.reserved += sign * account.reserved
        self.internal += sign * account.internal
        self.rounding += sign * account.rounding
