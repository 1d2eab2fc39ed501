"""Exercise 3.2: A first-fit allocator. (implement, about 30 minutes)

The allocator that paging replaces. Memory is one row of slots; whoever comes is given so many in
one piece. Free memory is a list of holes, sorted by address, of which no two touch:

    slot    0   4   8   12  16       an Extent(start, size) is the slots from start to start + size - 1
            aaaa....bbbbbb....       the holes here: Extent(4, 4) and Extent(14, 4)

`allocate` takes the first hole that is large enough, exactly as many slots as were asked for, from
its beginning. If no hole is large enough it returns None and changes nothing. `free` takes an
extent back; where it touches a hole, the two become one. Freeing what is free already is a mistake
of the caller: raise an AssertionError.

Check: python -m minivllm.course check 3.2     (or: python -m pytest exercises/ch03_fragmentation/first_fit.py)
Stuck: python -m minivllm.course hint 3.2
"""

from __future__ import annotations

from bisect import bisect_left

from minivllm.sim.allocators import Extent, _check_size, _checked_capacity


class FirstFitAllocator:
    """Takes the lowest hole that is large enough, exactly as much of it as asked; freed neighbours become one hole."""

    def __init__(self, capacity: int) -> None:
        self.capacity = _checked_capacity(capacity)
        self._holes = [Extent(0, capacity)]  # by address; two never touch

    def allocate(self, size: int) -> Extent | None:
        """The first `size` addresses of the lowest hole that is large enough; None, changing nothing, if none is.

        Raises:
            ValueError: `size` is below 1.
        """
        raise NotImplementedError("exercise 3.2: FirstFitAllocator.allocate")

    def free(self, extent: Extent) -> None:
        """Take back an extent exactly as it was handed out; it becomes one with the holes that it touches."""
        raise NotImplementedError("exercise 3.2: FirstFitAllocator.free")

    def holes(self) -> list[Extent]:
        """What is free, by address."""
        return list(self._holes)

    def size_for(self, size: int) -> int:
        """`size`: nothing is rounded."""
        return size
