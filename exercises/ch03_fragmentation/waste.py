"""Exercise 3.1: Waste accounting. (implement, about 20 minutes)

Put every slot of a KV cache into exactly one of five classes. An account says what one request
holds: `allocated` slots, of which `used` hold a token; when it finishes it will have written `need`
tokens. What is not allocated lies in holes.

    used      holds a token
    reserved  allocated, empty, and this request will write it
    internal  allocated, empty, and this request never will
    external  free, and enough for the head of the queue in all, but no hole is large enough
    free      free, and not external

`allocated` may be less than `need`: a request that is given memory on demand.

`count_usage` returns a Usage(used, reserved, internal, external, free, rounding). `rounding` is no
class of its own: add it up over the accounts.

Check: python -m minivllm.course check 3.1     (or: python -m pytest exercises/ch03_fragmentation/waste.py)
Stuck: python -m minivllm.course hint 3.1
"""

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
        raise NotImplementedError("exercise 3.1: Account.reserved")

    @property
    def internal(self) -> int:
        """Slots that will still be empty when the request finishes."""
        raise NotImplementedError("exercise 3.1: Account.internal")


def count_usage(accounts: Iterable[Account], holes: Sequence[int], wanted: int = 0, size: int = 0) -> Usage:
    """Put every slot into its class.

    Args:
        accounts: what each live request holds.
        holes: the sizes of the free pieces; nobody can lie in two of them.
        wanted: slots that the head of the queue asks for; 0 = nobody waits for memory.
        size: slots that it needs in one piece: `wanted`, or more where the allocator rounds up.
    """
    raise NotImplementedError("exercise 3.1: count_usage")
