"""Allocators of contiguous memory: first fit, and the buddy system. One address is one token's keys and values.

What they share is the disease: a request's tokens must lie side by side, so free memory may be enough and still
useless. Sources: Knuth, The Art of Computer Programming, volume 1, section 2.5 (both methods); PagedAttention (SOSP
2023), section 6.1, assumes that Orca places its reservations with a buddy allocator.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple, Protocol


class Extent(NamedTuple):
    """Addresses [start, start + size)."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class Allocator(Protocol):
    """Hands out extents of one address range [0, capacity), and takes them back."""

    capacity: int

    def allocate(self, size: int) -> Extent | None:
        """An extent of at least `size` addresses, or None, changing nothing, when no hole is large enough."""
        ...

    def free(self, extent: Extent) -> None:
        """Take back an extent exactly as it was handed out."""
        ...

    def holes(self) -> list[Extent]:
        """What is free, by address: no allocation can span two of them."""
        ...

    def size_for(self, size: int) -> int:
        """How many addresses an allocation of `size` really takes."""
        ...


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
        _check_size(size)
        for index, hole in enumerate(self._holes):
            if hole.size >= size:
                rest = Extent(hole.start + size, hole.size - size)
                self._holes[index : index + 1] = [rest] if rest.size else []
                return Extent(hole.start, size)
        return None

    def free(self, extent: Extent) -> None:
        """Take back an extent exactly as it was handed out; it becomes one with the holes that it touches."""
        start, end = extent.start, extent.end
        low = high = bisect_left(self._holes, extent)  # holes[low:high] become one with what comes back
        if low > 0:
            before = self._holes[low - 1]
            assert before.end <= start, f"{extent} was free already"
            if before.end == start:
                start, low = before.start, low - 1
        if high < len(self._holes):
            after = self._holes[high]
            assert end <= after.start, f"{extent} was free already"
            if after.start == end:
                end, high = after.end, high + 1
        self._holes[low:high] = [Extent(start, end - start)]

    def holes(self) -> list[Extent]:
        """What is free, by address."""
        return list(self._holes)

    def size_for(self, size: int) -> int:
        """`size`: nothing is rounded."""
        return size


class BuddyAllocator:
    """Chunks are powers of two, made by halving larger ones; two free halves of one chunk, its buddies, join again.

    A capacity that is no power of two is a row of arenas, one for each set bit, the largest first. A chunk's buddy is
    found by flipping one bit of its address. An arena never joins its neighbour: all that follows it together is
    smaller than itself, so its buddy address never holds a chunk of its size.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = _checked_capacity(capacity)
        self._free: dict[int, set[int]] = {}  # chunk size -> start addresses
        start = 0
        for bit in reversed(range(capacity.bit_length())):
            if capacity >> bit & 1:
                self._free[1 << bit] = {start}
                start += 1 << bit

    def allocate(self, size: int) -> Extent | None:
        """See `Allocator`. The smallest chunk that will do, of those the lowest. Raises ValueError if `size` < 1."""
        _check_size(size)
        wanted = self.size_for(size)
        found = min((free for free, starts in self._free.items() if free >= wanted and starts), default=None)
        if found is None:
            return None
        start = min(self._free[found])
        self._free[found].remove(start)
        while found > wanted:  # halve: the upper half stays free
            found //= 2
            self._free.setdefault(found, set()).add(start + found)
        return Extent(start, wanted)

    def free(self, extent: Extent) -> None:
        """See `Allocator`."""
        start, size = extent
        assert start not in self._free.get(size, ()), f"{extent} was free already"
        while (buddy := start ^ size) in self._free.get(size, ()):
            self._free[size].remove(buddy)
            start, size = min(start, buddy), size * 2
        self._free.setdefault(size, set()).add(start)

    def double(self, extent: Extent) -> Extent | None:
        """Join an allocated chunk with its buddy, if that is free; None, changing nothing, if it is not."""
        buddy = extent.start ^ extent.size
        if buddy not in self._free.get(extent.size, ()):
            return None
        self._free[extent.size].remove(buddy)
        return Extent(min(extent.start, buddy), extent.size * 2)

    def holes(self) -> list[Extent]:
        """See `Allocator`."""
        return sorted(Extent(start, size) for size, starts in self._free.items() for start in starts)

    def size_for(self, size: int) -> int:
        """The next power of two."""
        return next_power_of_two(size)


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number` (>= 1)."""
    return 1 << (number - 1).bit_length()


def _checked_capacity(capacity: int) -> int:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"capacity must be an integer of at least 1, not {capacity!r}")
    return capacity


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
