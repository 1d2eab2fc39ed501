"""Exercise 9.2: The longest hit. (implement, about 15 minutes)

A request comes in, and its full blocks have hashes. Which blocks can it begin with? Go along the
chain from the first hash on, ask `get_cached_block` for each, and stop where it gives None. What
lies behind a gap is of no use: prompts are computed from left to right, and a request begins with
what it finds in one piece.

One thing more. The next token comes from the logits of the last known token, and the cache holds
keys and values, no logits. So at least one token has to be computed, however much is cached:

    block size 4, 8 tokens, both blocks cached: the hit is block 0, and tokens 4 to 7 are computed again
    block size 4, 9 tokens, both blocks cached: the hit is both, and token 8 is computed

Yours can serve: python -m minivllm.serve --mine find_longest_cache_hit

Check: python -m minivllm.course check 9.2     (or: python -m pytest exercises/ch09_prefix_caching/longest_hit.py)
Stuck: python -m minivllm.course hint 9.2
"""

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
    raise NotImplementedError("exercise 9.2: find_longest_cache_hit")
