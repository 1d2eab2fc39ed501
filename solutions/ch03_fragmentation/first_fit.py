"""Exercise 3.2: A first-fit allocator."""

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
