"""Another correct fix: a block is cached when the last of its positions is computed, position by position."""

from minivllm.core.kv_cache_manager import KVCacheManager as Reference


class KVCacheManager(Reference):
    def cache_blocks(self, request, num_computed_tokens):
        self._num_filled_tokens[request.request_id] = num_computed_tokens
        if not self.enable_caching:
            return
        table = self._tables[request.request_id]
        known = self._num_cached_blocks[request.request_id]
        for last in range((known + 1) * self.block_size - 1, num_computed_tokens, self.block_size):
            block = table[last // self.block_size]
            if block.block_hash is None:
                block_hash = self._hashes.first(request, last // self.block_size + 1)[-1]
                self.pool.cache_full_block(block, block_hash)
            self._num_cached_blocks[request.request_id] += 1
