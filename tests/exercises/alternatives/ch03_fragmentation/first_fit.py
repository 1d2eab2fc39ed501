"""A row of flags, one for each slot: no list of holes to keep."""

from minivllm.sim.allocators import Extent


class FirstFitAllocator:
    def __init__(self, capacity):
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"capacity must be an integer of at least 1, not {capacity!r}")
        self.capacity = capacity
        self.taken = [False] * capacity

    def allocate(self, size):
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        for hole in self.holes():
            if hole.size >= size:
                self.mark(hole.start, size, True)
                return Extent(hole.start, size)
        return None

    def free(self, extent):
        self.mark(extent.start, extent.size, False)

    def mark(self, start, size, value):
        for slot in range(start, start + size):
            assert self.taken[slot] != value, f"slot {slot} was {'taken' if value else 'free'} already"
            self.taken[slot] = value

    def holes(self):
        found = []
        for slot, is_taken in enumerate(self.taken):
            if is_taken:
                continue
            if found and found[-1].end == slot:
                found[-1] = Extent(found[-1].start, found[-1].size + 1)
            else:
                found.append(Extent(slot, 1))
        return found

    def size_for(self, size):
        return size
