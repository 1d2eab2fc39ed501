"""Exercise 3.1: Waste accounting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minivllm.sim.usage import Usage


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
