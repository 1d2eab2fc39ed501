"""KVCacheManager: the blocks of every request. It speaks of requests and tokens; the `BlockPool` speaks of blocks.

The scheduler asks two questions: what is already there (`get_computed_blocks`), and is there room for these tokens
(`allocate_slots`, which answers None instead of raising: running out of blocks is everyday life, not an error).
Source: PagedAttention (SOSP 2023), sections 4.3-4.4; the two vocabularies are vLLM v1's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.core.block_pool import BlockPool, KVCacheBlock
from minivllm.core.block_table import BlockTable, cdiv
from minivllm.core.prefix_cache import ROOT_HASH, BlockHash, hash_block_tokens
from minivllm.request import Request


@dataclass
class PrefixCacheStats:
    """Totals in tokens: how many were looked up at admission, how many were found."""

    queries: int = 0
    hits: int = 0


class KVCacheManager:
    """Owns the block tables and keeps them true to the pool.

    `num_blocks` counts the null block, so `num_blocks - 1` blocks of `block_size` tokens can be used.
    """

    def __init__(self, num_blocks: int, block_size: int, enable_caching: bool = True) -> None:
        self.block_size = block_size
        self.enable_caching = enable_caching
        self.pool = BlockPool(num_blocks, enable_caching)
        self.stats = PrefixCacheStats()
        self._tables: dict[str, BlockTable] = {}
        self._hashes: dict[str, list[BlockHash]] = {}  # of each request's full blocks, as far as they were needed
        self._num_cached_blocks: dict[str, int] = {}  # leading blocks of the table that the prefix cache knows
        self._copies: list[tuple[int, int]] = []  # (source, target) block ids to copy before the next step's writes

    # -- what is there ------------------------------------------------------------------------------------------------

    @property
    def max_tokens_per_request(self) -> int:
        """The longest request that fits alone."""
        return (self.pool.num_blocks - 1) * self.block_size

    def block_ids(self, request_id: str) -> list[int]:
        return self._tables[request_id].block_ids

    def tables(self) -> dict[str, BlockTable]:
        """The live tables, to look at (integrity checks, pictures), never to change."""
        return self._tables

    def get_computed_blocks(self, request: Request) -> list[KVCacheBlock]:
        """The longest chain of cached blocks that the request's known tokens begin with.

        At least one token is left to compute, as its logits are needed. No reference is taken: the blocks are safe
        until the next allocation. A block is found only after it was computed (vLLM also finds blocks that are
        scheduled in the same step).
        """
        if not self.enable_caching:
            return []
        hashes = self._block_hashes(request, (request.num_tokens - 1) // self.block_size)
        found = []
        for block_hash in hashes:
            block = self.pool.get_cached_block(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    # -- room for tokens ----------------------------------------------------------------------------------------------

    def can_fit(self, num_tokens: int, computed_blocks: Sequence[KVCacheBlock] = ()) -> bool:
        """Could a new request of `num_tokens` tokens, beginning with `computed_blocks`, be held right now?"""
        needed = cdiv(num_tokens, self.block_size) - len(computed_blocks)
        return needed + _num_free(computed_blocks) <= self.pool.num_free_blocks

    def allocate_slots(
        self, request: Request, num_new_tokens: int, computed_blocks: Sequence[KVCacheBlock] = ()
    ) -> list[tuple[int, int]] | None:
        """Make room for the next `num_new_tokens` tokens of `request`.

        Args:
            request: its `num_computed_tokens` tokens are in the cache (or, for a new request, in `computed_blocks`).
            num_new_tokens: tokens to be computed in the coming step, drafts included.
            computed_blocks: a new request's result of `get_computed_blocks`; a reference to each is taken.

        Returns:
            The changes of its block table as (logical index, physical block id), or None when the pool has too few
            free blocks; then nothing has changed.
        """
        table = self._tables.get(request.request_id) or BlockTable(self.block_size)
        assert not (len(table) and computed_blocks), "computed blocks are for requests that hold none yet"
        num_computed = request.num_computed_tokens or len(computed_blocks) * self.block_size
        num_missing = table.num_blocks_missing(num_computed + num_new_tokens) - len(computed_blocks)
        shared_tail = self._shared_tail(table, num_computed)
        num_needed = num_missing + (shared_tail is not None)
        if num_needed + _num_free(computed_blocks) > self.pool.num_free_blocks:
            return None

        self.pool.touch(computed_blocks)
        self._tables[request.request_id] = table
        first_new = len(table)
        table.append(computed_blocks)
        updates = []
        new_blocks = self.pool.get_new_blocks(num_needed)
        if shared_tail is not None:
            updates.append((shared_tail, self._copy_on_write(table, shared_tail, new_blocks.pop())))
        table.append(new_blocks)
        updates += [(index, table[index].block_id) for index in range(first_new, len(table))]
        self._num_cached_blocks.setdefault(request.request_id, len(computed_blocks))
        return updates

    def record_lookup(self, request: Request, num_hit_tokens: int) -> None:
        """Count a prefix-cache look-up that led to an admission."""
        self.stats.queries += request.num_tokens
        self.stats.hits += num_hit_tokens

    def _shared_tail(self, table: BlockTable, position: int) -> int | None:
        """The logical index of the block that `position` falls into, if it must be copied before writing there."""
        index = position // self.block_size
        return index if index < len(table) and table[index].ref_cnt > 1 else None

    def _copy_on_write(self, table: BlockTable, index: int, target: KVCacheBlock) -> int:
        source = table.replace(index, target)
        self._copies.append((source.block_id, target.block_id))
        self.pool.free_blocks([source])  # others still hold it: it cannot become free here
        return target.block_id

    def take_copies(self) -> list[tuple[int, int]]:
        """(source, target) pairs to be copied before the step's writes; each is handed out once."""
        copies, self._copies = self._copies, []
        return copies

    # -- sharing, caching, giving back --------------------------------------------------------------------------------

    def fork(self, parent: Request, child: Request) -> None:
        """Let `child` share all of the parent's blocks. Nothing is copied until one of them writes into a shared block.

        Source: PagedAttention (SOSP 2023), section 4.4, figure 8 (vLLM v1 shares by prefix hash instead).
        """
        assert child.request_id not in self._tables, f"request {child.request_id} holds blocks already"
        parent_table = self._tables[parent.request_id]
        table = BlockTable(self.block_size)
        table.append(parent_table[:])
        self.pool.touch(table)
        self._tables[child.request_id] = table
        self._num_cached_blocks[child.request_id] = self._num_cached_blocks[parent.request_id]

    def cache_blocks(self, request: Request, num_computed_tokens: int) -> None:
        """Make the request's full blocks among its first `num_computed_tokens` computed tokens findable."""
        num_full = num_computed_tokens // self.block_size
        num_cached = self._num_cached_blocks[request.request_id]
        if not self.enable_caching or num_full <= num_cached:
            return
        table = self._tables[request.request_id]
        hashes = self._block_hashes(request, num_full)
        for index in range(num_cached, num_full):
            if table[index].block_hash is None:  # a forked sibling may have cached the shared block
                self.pool.cache_full_block(table[index], hashes[index])
        self._num_cached_blocks[request.request_id] = num_full

    def free(self, request: Request) -> None:
        """Give back everything the request holds (nothing, if it holds nothing). Tails are evicted before heads."""
        table = self._tables.pop(request.request_id, None)
        self._num_cached_blocks.pop(request.request_id, None)
        if table is not None:
            self.pool.free_blocks(reversed(table))

    def forget(self, request: Request) -> None:
        """The request is over: free its blocks and drop its hashes."""
        self.free(request)
        self._hashes.pop(request.request_id, None)

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks; False, changing nothing, while any block is in use."""
        return self.pool.reset_prefix_cache()

    def check_integrity(self) -> None:
        """Assert that no block is lost (law 2)."""
        self.pool.check_integrity(self._tables.values())

    def _block_hashes(self, request: Request, num_blocks: int) -> list[BlockHash]:
        """Hashes of the first `num_blocks` blocks of known tokens; computed once, as tokens never change."""
        hashes = self._hashes.setdefault(request.request_id, [])
        for index in range(len(hashes), num_blocks):
            tokens = request.tokens_between(index * self.block_size, (index + 1) * self.block_size)
            is_root = index == 0
            extra_keys = [f"salt:{request.cache_salt}"] if is_root and request.cache_salt is not None else []
            hashes.append(hash_block_tokens(ROOT_HASH if is_root else hashes[-1], tokens, extra_keys))
        return hashes[:num_blocks]


def _num_free(blocks: Sequence[KVCacheBlock]) -> int:
    """How many of `blocks` stand in the free queue, and would leave it when touched."""
    return sum(block.ref_cnt == 0 for block in blocks)
