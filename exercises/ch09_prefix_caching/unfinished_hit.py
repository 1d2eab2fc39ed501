"""Exercise 9.4: Debug: a hit on an unfinished block. (debug, about 25 minutes)

The KV cache manager below has served for weeks. Then the budget of a step was made smaller, and now
and then an answer is nonsense: never the first one to a prompt, and never with prefix caching off.

The check shows the smallest history that does it. The toy engine's worker tells who reads a
position where its own token does not stand. Find the line, say why it went well for so long, and
change as little as you can. A block that is full and computed must still be found: switching the
cache off is no repair.

Check: python -m minivllm.course check 9.4     (or: python -m pytest exercises/ch09_prefix_caching/unfinished_hit.py)
Stuck: python -m minivllm.course hint 9.4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minivllm.core.block import BlockHash, KVCacheBlock
from minivllm.core.block_pool import BlockPool
from minivllm.core.block_table import BlockTable, cdiv
from minivllm.core.integrity import check_integrity
from minivllm.core.kv_cache_manager import BlockUpdates, PrefixCacheStats, Start, _num_free
from minivllm.core.prefix_cache import find_longest_cache_hit, hash_block_tokens
from minivllm.core.request_hashes import RequestHashes
from minivllm.core.rollback import trim_table
from minivllm.core.scheduler_output import BlockOperations
from minivllm.core.sharing import copy_on_write, fork_table, shared_blocks
from minivllm.core.step_checks import check_references
from minivllm.core.swap import SwapSpace
from minivllm.parts import REFERENCE, Allocator, Parts
from minivllm.request import Request


class KVCacheManager:
    """Owns the block tables and keeps them true to the pool.

    Args:
        num_blocks: counts the null block, so `num_blocks - 1` blocks can be used.
        block_size: tokens of a block.
        enable_caching: keep full blocks findable after their request is gone.
        window: if every layer sees only so many of the latest tokens, blocks behind it are freed while a request runs.
        num_swap_blocks: size of the swap space; 0 = none.
        parts: what replaces the allocator, the block table, and the functions of sharing and hashing.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        enable_caching: bool = True,
        *,
        window: int | None = None,
        num_swap_blocks: int = 0,
        parts: Parts = REFERENCE,
    ) -> None:
        self.block_size = block_size
        self.enable_caching = enable_caching
        self.window = window
        self.pool: Allocator = (parts.block_pool or BlockPool)(num_blocks, enable_caching)
        self._new_table = parts.block_table or BlockTable
        self._fork_table = parts.fork_table or fork_table
        self._shared_blocks = parts.shared_blocks or shared_blocks
        self._copy_on_write = parts.copy_on_write or copy_on_write
        self._trim_table = parts.trim_table or trim_table
        self._find_longest_cache_hit = parts.find_longest_cache_hit or find_longest_cache_hit
        self.swap_space = SwapSpace(num_swap_blocks)
        self.stats = PrefixCacheStats()
        self._tables: dict[str, BlockTable] = {}
        self._num_cached_blocks: dict[
            str, int
        ] = {}  # leading blocks of the table that the prefix cache knows
        self._num_filled_tokens: dict[
            str, int
        ] = {}  # leading tokens that a step which has returned has computed
        self._forked: set[str] = set()  # requests that share, or shared, blocks with a fork
        self._hashes = RequestHashes(block_size, parts.hash_block_tokens or hash_block_tokens)
        self._copies: list[tuple[int, int]] = []

    # -- what is there ------------------------------------------------------------------------------------------------

    @property
    def max_tokens_per_request(self) -> int:
        """The longest request that fits alone."""
        return (self.pool.num_blocks - 1) * self.block_size

    def block_ids(self, request_id: str) -> list[int]:
        """The request's physical blocks in logical order."""
        return self._tables[request_id].block_ids

    def tables(self) -> Mapping[str, BlockTable]:
        """The live tables, to look at (integrity checks, pictures), never to change."""
        return self._tables

    def get_computed_blocks(self, request: Request) -> list[KVCacheBlock]:
        """The longest chain of cached blocks that the request's known tokens begin with.

        At least one token is left to compute, as its logits are needed. No reference is taken: the blocks are safe
        until the next allocation. A block is found only after it was computed (vLLM also finds blocks that are
        scheduled in the same step).
        """
        if not self.enable_caching or request.skip_prefix_cache:
            return []
        hashes = self._hashes.first(request, request.num_tokens // self.block_size)
        return self._find_longest_cache_hit(
            hashes, request.num_tokens, self.block_size, self.pool.get_cached_block
        )

    def hashes_of(self, request: Request) -> list[BlockHash]:
        """The hashes of the full blocks that a request could begin with."""
        if not self.enable_caching or request.skip_prefix_cache:
            return []
        return self._hashes.first(request, (request.num_tokens - 1) // self.block_size)

    def next_hash(self, request: Request, num_blocks: int) -> BlockHash | None:
        """The hash of block number `num_blocks` of a request; None if the request could not use a cached one there."""
        if not self.enable_caching or request.skip_prefix_cache:
            return None
        if num_blocks >= (request.num_tokens - 1) // self.block_size:
            return None
        return self._hashes.first(request, num_blocks + 1)[-1]

    def hashes_computed_by(self, request: Request, num_new_tokens: int) -> list[BlockHash]:
        """The hashes of the blocks that computing the next `num_new_tokens` tokens will fill."""
        if not self.enable_caching:
            return []
        num_computed = request.num_computed_tokens
        num_full = min(num_computed + num_new_tokens, request.num_tokens) // self.block_size
        first = num_computed // self.block_size
        return self._hashes.first(request, num_full)[first:] if num_full > first else []

    # -- room for tokens ----------------------------------------------------------------------------------------------

    def can_fit(self, num_tokens: int, computed_blocks: Sequence[KVCacheBlock] = ()) -> bool:
        """Could a new request of `num_tokens` tokens, beginning with `computed_blocks`, be held right now?"""
        needed = cdiv(num_tokens, self.block_size) - len(computed_blocks)
        return needed + _num_free(computed_blocks) <= self.pool.num_free_blocks

    def allocate_slots(
        self, request: Request, num_new_tokens: int, computed_blocks: Sequence[KVCacheBlock] = ()
    ) -> BlockUpdates | None:
        """Make room for the next `num_new_tokens` tokens of `request`.

        Args:
            request: its `num_computed_tokens` tokens are in the cache (or, for a new request, in `computed_blocks`).
            num_new_tokens: tokens to be computed in the coming step, drafts included.
            computed_blocks: a new request's result of `get_computed_blocks`; a reference to each is taken.

        Returns:
            The changes of its block table, or None when the pool has too few free blocks; then nothing has changed,
            except that blocks behind a sliding window are free now.
        """
        if self._fits_in_last_block(request, num_new_tokens):
            return []  # as in most steps
        table = self._tables.get(request.request_id) or self._new_table(self.block_size)
        assert not (len(table) and computed_blocks), "computed blocks are for requests that hold none yet"
        num_computed = request.num_computed_tokens or len(computed_blocks) * self.block_size
        updates = self._free_behind_window(table, num_computed)
        num_missing = table.num_blocks_missing(num_computed + num_new_tokens) - len(computed_blocks)
        shared = self._shared_blocks(table, num_computed, num_computed + num_new_tokens)
        num_needed = num_missing + len(shared)
        if len(table) and not num_needed:
            return updates
        if num_needed + _num_free(computed_blocks) > self.pool.num_free_blocks:
            return None

        self.pool.touch(computed_blocks)
        self._tables[request.request_id] = table
        first_new = len(table)
        new_blocks = self.pool.get_new_blocks(num_needed)
        updates += [(index, self._copy(table, index, new_blocks.pop())) for index in shared]
        table.append([*computed_blocks, *new_blocks])
        updates += [(index, block.block_id) for index, block in enumerate(table[first_new:], first_new)]
        self._num_cached_blocks.setdefault(request.request_id, len(computed_blocks))
        return updates

    def _fits_in_last_block(self, request: Request, num_new_tokens: int) -> bool:
        """Is the block of the latest token the request's own, and has it room? False: have a closer look.

        Only a fork shares a block that is not full; a prefix hit shares full ones.
        """
        num_used = request.num_computed_tokens % self.block_size
        has_room = 0 < num_used <= self.block_size - num_new_tokens
        return has_room and self.window is None and request.request_id not in self._forked

    def trim(self, request: Request) -> None:
        """Give back the blocks behind the computed tokens: what drafts were written to, and a draft model's lookahead.

        The worker is not told: it never looks behind the computed tokens, and the next allocation names the new blocks.
        """
        table = self._tables[request.request_id]
        self._tables[request.request_id] = self._trim_table(self.pool, table, request.num_computed_tokens)

    def record_lookup(self, request: Request, num_hit_tokens: int) -> None:
        """Count a prefix-cache look-up that led to an admission."""
        if self.enable_caching and not request.skip_prefix_cache:
            self.stats.queries += request.num_tokens
            self.stats.hits += num_hit_tokens

    def _copy(self, table: BlockTable, index: int, target: KVCacheBlock) -> int:
        self._copies.append(self._copy_on_write(self.pool, table, index, target))
        return target.block_id

    def _free_behind_window(self, table: BlockTable, num_computed: int) -> BlockUpdates:
        """Put the null block in the place of blocks that no token to come will look at."""
        if self.window is None:
            return []
        num_behind = max(0, num_computed - self.window + 1) // self.block_size
        null = self.pool.null_block
        behind = [index for index in range(min(num_behind, len(table))) if table[index] is not null]
        self.pool.free_blocks([table.replace(index, null) for index in reversed(behind)])
        return [(index, null.block_id) for index in behind]

    # -- beginning ----------------------------------------------------------------------------------------------------

    def find_start(self, request: Request) -> Start:
        """The best way for a waiting request to begin: from the swap space, as a fork of a sibling, or by prefix."""
        if request.request_id in self.swap_space:
            num_computed = request.num_computed_tokens
            return Start(
                "swap_in", num_computed, self.get_computed_blocks(request)[: num_computed // self.block_size]
            )
        if self._can_fork(request):
            assert request.fork_from is not None
            num_computed = (
                request.num_prompt_tokens - 1
            )  # it computes the last prompt token itself, for its logits
            parent_table = self._tables[request.fork_from.request_id]
            return Start("fork", num_computed, parent_table[: num_computed // self.block_size])
        blocks = self.get_computed_blocks(request)
        return Start("prefix", len(blocks) * self.block_size, blocks)

    def begin(self, request: Request, start: Start, num_new_tokens: int) -> None:
        """Start (or go on with) a request; `can_fit` has promised room for all its tokens."""
        if start.how == "swap_in":
            self.swap_in(request, start.blocks)
        elif start.how == "fork":
            assert request.fork_from is not None
            self.fork(request.fork_from, request, start.num_computed_tokens)
        request.num_computed_tokens = start.num_computed_tokens
        updates = self.allocate_slots(request, num_new_tokens, start.blocks if start.how == "prefix" else ())
        assert updates is not None, "can_fit promised room"

    def _can_fork(self, request: Request) -> bool:
        parent = request.fork_from
        if parent is None or parent.request_id not in self._tables:
            return False
        num_shared = request.num_prompt_tokens - 1
        if num_shared == 0 or request.num_output_tokens > 0:
            return False
        if self._num_filled_tokens.get(parent.request_id, 0) < num_shared:
            return False
        first_seen = 0 if self.window is None else max(0, num_shared - self.window + 1)
        table = self._tables[parent.request_id]
        seen = table[first_seen // self.block_size : cdiv(num_shared, self.block_size)]
        return all(
            block is not self.pool.null_block for block in seen
        )  # the sibling's window may have left some

    # -- sharing and caching ------------------------------------------------------------------------------------------

    def fork(self, parent: Request, child: Request, num_tokens: int) -> None:
        """Let `child` share the blocks of the parent's first `num_tokens` computed tokens, and count them as computed.

        Nothing is copied until one of them writes into a shared block. Source: PagedAttention (SOSP 2023), section 4.4,
        figure 8 (vLLM v1 shares by prefix hash instead).
        """
        assert child.request_id not in self._tables, f"request {child.request_id} holds blocks already"
        assert num_tokens <= self._num_filled_tokens[parent.request_id], "only computed tokens can be shared"
        self._tables[child.request_id] = self._fork_table(
            self.pool, self._tables[parent.request_id], num_tokens
        )
        self._forked |= {parent.request_id, child.request_id}
        cached = self._num_cached_blocks[parent.request_id]
        self._num_cached_blocks[child.request_id] = min(cached, num_tokens // self.block_size)
        self._num_filled_tokens[child.request_id] = child.num_computed_tokens = num_tokens

    def cache_blocks(self, request: Request, num_computed_tokens: int) -> None:
        """The request's first `num_computed_tokens` tokens are computed: full blocks of them can be found now."""
        request_id = request.request_id
        self._num_filled_tokens[request_id] = num_computed_tokens
        num_full = min(len(self._tables[request.request_id]), request.num_tokens // self.block_size)
        num_cached = self._num_cached_blocks[request_id]
        if not self.enable_caching or num_full <= num_cached:
            return
        table = self._tables[request_id]
        hashes = self._hashes.first(request, num_full)
        for index in range(num_cached, num_full):
            if table[index].block_hash is None:  # a forked sibling may have cached the shared block
                self.pool.cache_full_block(table[index], hashes[index])
        self._num_cached_blocks[request_id] = num_full

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks; False, changing nothing, while any block is in use."""
        return self.pool.reset_prefix_cache()

    # -- giving back --------------------------------------------------------------------------------------------------

    def free(self, request: Request) -> None:
        """Give back everything the request holds (nothing, if it holds nothing). Tails are evicted before heads."""
        table = self._tables.pop(request.request_id, None)
        self._num_cached_blocks.pop(request.request_id, None)
        self._num_filled_tokens.pop(request.request_id, None)
        self._forked.discard(request.request_id)
        if table is not None:
            self.pool.free_blocks(table[::-1])

    def forget(self, request: Request) -> None:
        """The request is over: free its blocks, here and in the swap space, and drop its hashes."""
        self.free(request)
        self.swap_space.discard(request.request_id)
        self._hashes.forget(request)

    def swap_out(self, request: Request) -> bool:
        """Move the request's blocks to the swap space. False, and nothing changed, if they do not fit there."""
        table = self._tables[request.request_id]
        if not self.swap_space.can_hold(len(table)):
            return False
        self.swap_space.swap_out(request.request_id, table)
        self.free(request)
        return True

    def swap_in(self, request: Request, computed_blocks: Sequence[KVCacheBlock]) -> None:
        """Bring a swapped-out request's blocks back; those that the prefix cache still knows are not copied."""
        num_blocks = self.swap_space.num_blocks_of(request.request_id)
        self.pool.touch(computed_blocks)
        targets = self.pool.get_new_blocks(num_blocks - len(computed_blocks))
        self.swap_space.swap_in(request.request_id, targets, first=len(computed_blocks))
        table = self._new_table(self.block_size)
        table.append([*computed_blocks, *targets])
        self._tables[request.request_id] = table
        self._num_cached_blocks[request.request_id] = len(computed_blocks)
        self._num_filled_tokens[request.request_id] = request.num_computed_tokens

    def take_operations(self) -> BlockOperations:
        """The block copies that the next step must begin with; each is handed out once."""
        swap_out, swap_in = self.swap_space.take_operations()
        copies, self._copies = self._copies, []
        return BlockOperations(swap_out, swap_in, copies)

    def check_integrity(self) -> None:
        """Assert that no block is lost (law 2)."""
        check_references(self.pool, self._tables.values())
        if isinstance(self.pool, BlockPool):  # anybody else's pool may keep its free blocks as it likes
            check_integrity(self.pool, self._tables.values())
        self.swap_space.check_integrity()
