"""Reference counts change first, and what has become free or used is moved afterwards; nothing is asserted midway."""

from minivllm.core import block_pool as reference
from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import FreeBlockQueue
from minivllm.core.prefix_cache import PrefixCache


class BlockPool(reference.BlockPool):
    def __init__(self, num_blocks, enable_caching=True):
        self.num_blocks = num_blocks
        self.blocks = [KVCacheBlock(number) for number in range(num_blocks)]
        self.null_block = self.blocks[0]
        self.prefix_cache = PrefixCache() if enable_caching else None
        self.free_queue = FreeBlockQueue(self.blocks[1:])

    def get_new_blocks(self, num_blocks):
        if num_blocks > self.num_free_blocks:
            raise AssertionError("too few free blocks")
        taken = []
        while len(taken) < num_blocks:
            block = self.free_queue.popleft()
            self._forget(block)
            block.ref_cnt += 1
            taken.append(block)
        return taken

    def touch(self, blocks):
        for block in [block for block in blocks if block.block_id != 0]:
            block.ref_cnt += 1
            if block.ref_cnt == 1:
                self.free_queue.remove(block)

    def free_blocks(self, ordered_blocks):
        released = []
        for block in ordered_blocks:
            if block.block_id == 0:
                continue
            if block.ref_cnt <= 0:
                raise AssertionError("freed too often")
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                released.append(block)
        for block in released:
            if block.block_hash:
                self.free_queue.append(block)
        while released:
            block = released.pop()
            if not block.block_hash:
                self.free_queue.prepend(block)
