"""Usage: every token slot of a KV cache in exactly one of five classes, and the accounts that they are counted from.

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

from collections.abc import Iterable, Sequence
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
        """Slots that are empty now and will be written."""
        return min(self.allocated, self.need) - self.used

    @property
    def internal(self) -> int:
        """Slots that will still be empty when the request finishes."""
        return max(0, self.allocated - self.need)


def count_usage(accounts: Iterable[Account], holes: Sequence[int], wanted: int = 0, size: int = 0) -> Usage:
    """Put every slot into its class.

    Args:
        accounts: what each live request holds.
        holes: the sizes of the free pieces; nobody can lie in two of them.
        wanted: slots that the head of the queue asks for; 0 = nobody waits for memory.
        size: slots that it needs in one piece: `wanted`, or more where the allocator rounds up.
    """
    used = reserved = internal = rounding = 0
    for account in accounts:
        used += account.used
        reserved += account.reserved
        internal += account.internal
        rounding += account.rounding
    total = sum(holes)
    is_cut = 0 < wanted <= total and max(holes) < size
    external = total if is_cut else 0
    return Usage(used, reserved, internal, external, total - external, rounding)


class Ledger:
    """The accounts of all live requests.

    They know the future (`need`), which only the accounting does: it is what tells reserved from internal.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}

    def open(self, request_id: str, need: int, used: int, allocated: int, rounding: int = 0) -> None:
        """Begin an account: `allocated` slots, of which `used` are written at once."""
        assert request_id not in self.accounts, f"request {request_id} holds memory already"
        assert used <= min(allocated, need), (
            f"request {request_id} writes {used} tokens into {allocated} slots"
        )
        self.accounts[request_id] = Account(need, used, allocated, rounding)

    def write(self, request_id: str) -> None:
        """One more token in a slot that is allocated already."""
        account = self.accounts[request_id]
        assert account.reserved > 0, f"request {request_id} has no slot to write to"
        account.used += 1

    def resize(self, request_id: str, allocated: int) -> None:
        """The request now holds `allocated` slots."""
        self.accounts[request_id].allocated = allocated

    def close(self, request_id: str) -> None:
        """The request holds nothing any more."""
        del self.accounts[request_id]
