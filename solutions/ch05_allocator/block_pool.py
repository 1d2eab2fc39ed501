"""Exercise 5.3: Take blocks, give them back."""

from __future__ import annotations

from collections.abc import Iterable

from minivllm.core.block import BlockHash, KVCacheBlock
from minivllm.core.block_pool import NULL_BLOCK_ID, FreeBlockQueue
from minivllm.core.prefix_cache import PrefixCache


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
