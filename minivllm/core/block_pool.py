"""The pool of physical KV-cache blocks: who is free, who is referenced, and in which order blocks are reused.

What this is: the allocator. It speaks of blocks only; requests belong to the `KVCacheManager`.
What this is not: memory. The tensors live in the worker; a block here is its number and its book-keeping.

Source: Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention" (SOSP 2023), section 4.2-4.3;
the free queue with O(1) removal from its middle is vLLM v1's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from minivllm.core.block import BlockHash, KVCacheBlock
from minivllm.core.prefix_cache import PrefixCache

NULL_BLOCK_ID = 0


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


class BlockPool:
    """All blocks of one KV cache. Block 0 is the null block: never handed out, the target of padding.

    Contract: `get_new_blocks` either returns all blocks asked for or changes nothing (ask `num_free_blocks` first).
    Every block handed out or touched is given back by exactly one `free_blocks` for each reference.
    """

    def __init__(self, num_blocks: int, enable_caching: bool = True) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1 (the null block), not {num_blocks}")
        self.num_blocks = num_blocks
        self.blocks = [KVCacheBlock(block_id) for block_id in range(num_blocks)]
        self.null_block = self.blocks[NULL_BLOCK_ID]
        self.free_queue = FreeBlockQueue(self.blocks[1:])
        self.prefix_cache = PrefixCache() if enable_caching else None

    @property
    def num_free_blocks(self) -> int:
        return self.free_queue.num_free_blocks

    @property
    def usage(self) -> float:
        """The referenced share of the usable blocks, 0..1."""
        usable = self.num_blocks - 1
        return (usable - self.num_free_blocks) / usable if usable else 0.0

    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        """Take `num_blocks` blocks from the head of the free queue, one reference each, and forget their content.

        AssertionError, and nothing is changed, if fewer are free.
        """
        assert num_blocks <= self.num_free_blocks, (
            f"asked for {num_blocks} of {self.num_free_blocks} free blocks"
        )
        blocks = [self.free_queue.popleft() for _ in range(num_blocks)]
        for block in blocks:
            self._forget(block)
            assert block.ref_cnt == 0, f"free block {block.block_id} has {block.ref_cnt} references"
            block.ref_cnt = 1
        return blocks

    def touch(self, blocks: Iterable[KVCacheBlock]) -> None:
        """One more reference to each block; a free one (kept for the prefix cache) leaves the free queue."""
        for block in blocks:
            if block is self.null_block:
                continue
            if block.ref_cnt == 0:
                self.free_queue.remove(block)
            block.ref_cnt += 1

    def free_blocks(self, ordered_blocks: Iterable[KVCacheBlock]) -> None:
        """Give back one reference to each block; the first of `ordered_blocks` is to be evicted first.

        A block that reaches zero references joins the free queue: at the end if the prefix cache may still find it, at
        the front if it can never be found again. AssertionError for a block without references.
        """
        unfindable = []
        for block in ordered_blocks:
            if block is self.null_block:
                continue
            assert block.ref_cnt > 0, f"block {block.block_id} is freed more often than it was taken"
            block.ref_cnt -= 1
            if block.ref_cnt:
                continue
            if block.block_hash is None:
                unfindable.append(block)
            else:
                self.free_queue.append(block)
        for block in reversed(unfindable):
            self.free_queue.prepend(block)

    def cache_full_block(self, block: KVCacheBlock, block_hash: BlockHash) -> None:
        """Make a full, computed block findable. Several blocks with one hash may coexist."""
        if self.prefix_cache is None or block is self.null_block:
            return
        assert block.block_hash is None, f"block {block.block_id} is cached already"
        block.block_hash = block_hash
        self.prefix_cache.insert(block_hash, block)

    def get_cached_block(self, block_hash: BlockHash) -> KVCacheBlock | None:
        return self.prefix_cache.get(block_hash) if self.prefix_cache is not None else None

    def reset_prefix_cache(self) -> bool:
        """Forget every cached block. Returns False, and changes nothing, while a block is in use."""
        if self.num_free_blocks != self.num_blocks - 1:
            return False
        for block in self.blocks:
            self._forget(block)
        return True

    def _forget(self, block: KVCacheBlock) -> None:
        if block.block_hash is not None and self.prefix_cache is not None:
            self.prefix_cache.remove(block.block_hash, block)
            block.block_hash = None
