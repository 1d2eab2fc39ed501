"""Exercise 5.2: The free queue. (implement, about 20 minutes)

The free blocks wait in a queue: whoever needs a block takes the first one. A block may also leave
from the middle, when somebody finds that its old content is just what is needed. So the queue is a
doubly linked list whose links, `prev_free` and `next_free`, live inside the blocks. Each operation
touches a handful of links, however long the queue is.

    _ends <-> block 3 <-> block 1 <-> block 2 <-> (back to _ends)

`append` and `prepend` are written. Write `_insert_before`, `remove` and `popleft`. A block outside
the queue has both links None: that is how misuse is noticed.

Check: python -m minivllm.course check 5.2     (or: python -m pytest exercises/ch05_allocator/free_queue.py)
Stuck: python -m minivllm.course hint 5.2
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from minivllm.core.block import KVCacheBlock


class FreeBlockQueue:
    """A doubly linked list of the free blocks; the head is reused first, so the order is the eviction order.

    The links live inside the blocks: taking a block out of the middle (a prefix-cache hit on a free block) is O(1).
    """

    def __init__(self, blocks: Iterable[KVCacheBlock] = ()) -> None:
        # One sentinel closes the list into a ring: no special case at either end.
        self._ends = KVCacheBlock(-1)
        self._ends.prev_free = self._ends.next_free = self._ends
        self.num_free_blocks = 0
        for block in blocks:
            self.append(block)

    def append(self, block: KVCacheBlock) -> None:
        """Put `block` at the end: it is reused last."""
        self._insert_before(self._ends, block)

    def prepend(self, block: KVCacheBlock) -> None:
        """Put `block` at the front: it is reused first."""
        assert self._ends.next_free is not None
        self._insert_before(self._ends.next_free, block)

    def popleft(self) -> KVCacheBlock:
        """Take the first block out and return it; AssertionError if there is none."""
        raise NotImplementedError("exercise 5.2: FreeBlockQueue.popleft")

    def remove(self, block: KVCacheBlock) -> None:
        """Take `block` out, wherever it stands; AssertionError if it is not in the queue."""
        raise NotImplementedError("exercise 5.2: FreeBlockQueue.remove")

    def _insert_before(self, after: KVCacheBlock, block: KVCacheBlock) -> None:
        """Link `block` in between `after` and what stood before it; AssertionError if `block` is in the queue."""
        raise NotImplementedError("exercise 5.2: FreeBlockQueue._insert_before")

    def __iter__(self) -> Iterator[KVCacheBlock]:
        block = self._ends.next_free
        while block is not self._ends:
            assert block is not None
            yield block
            block = block.next_free
