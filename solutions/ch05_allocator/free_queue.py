"""Exercise 5.2: The free queue."""

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
        block = self._ends.next_free
        assert block is not None and block is not self._ends, "popleft from an empty free queue"
        self.remove(block)
        return block

    def remove(self, block: KVCacheBlock) -> None:
        """Take `block` out, wherever it stands; AssertionError if it is not in the queue."""
        before, after = block.prev_free, block.next_free
        assert before is not None and after is not None, f"block {block.block_id} is not in the free queue"
        before.next_free, after.prev_free = after, before
        block.prev_free = block.next_free = None
        self.num_free_blocks -= 1

    def _insert_before(self, after: KVCacheBlock, block: KVCacheBlock) -> None:
        """Link `block` in between `after` and what stood before it; AssertionError if `block` is in the queue."""
        assert block.next_free is None, f"block {block.block_id} is already in the free queue"
        before = after.prev_free
        assert before is not None
        before.next_free = after.prev_free = block
        block.prev_free, block.next_free = before, after
        self.num_free_blocks += 1

    def __iter__(self) -> Iterator[KVCacheBlock]:
        block = self._ends.next_free
        while block is not self._ends:
            assert block is not None
            yield block
            block = block.next_free
