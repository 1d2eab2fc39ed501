"""Exercise 9.2: The longest hit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minivllm.core.block import BlockHash, KVCacheBlock


def find_longest_cache_hit(
    block_hashes: Sequence[BlockHash],
    num_tokens: int,
    block_size: int,
    get_cached_block: Callable[[BlockHash], KVCacheBlock | None],
) -> list[KVCacheBlock]:
    """The cached blocks that a request of `num_tokens` tokens can begin with, from its first block on.

    The run ends before the first block that is not cached, and leaves at least one token to compute: the next token
    comes from the logits of the last one, and the cache holds keys and values, no logits.

    Args:
        block_hashes: the chained hashes of the request's full blocks.
        num_tokens: all tokens that it knows, at least 1.
        block_size: tokens of a block.
        get_cached_block: the block with a hash, or None.
    """
    found: list[KVCacheBlock] = []
    for block_hash in block_hashes[: (num_tokens - 1) // block_size]:
        block = get_cached_block(block_hash)
        if block is None:
            break
        found.append(block)
    return found
