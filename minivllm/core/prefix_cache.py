"""Finding computed blocks again: chained block hashes, and the map from hash to block.

A block's hash covers its own tokens, its parent's hash (so the whole prefix), and the extra keys that change what the
keys and values would be (an adapter, an image, a tenant's salt). Equal hash therefore means equal prefix, up to a
collision of sha256. Source: vLLM v1's automatic prefix caching; the radix-tree alternative is SGLang's (Zheng et al.,
2023).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence

from minivllm.core.block import BlockHash, KVCacheBlock

ROOT_HASH: BlockHash = hashlib.sha256(b"minivllm prefix cache root").digest()


def hash_block_tokens(
    parent: BlockHash, token_ids: Sequence[int], extra_keys: Sequence[str] = ()
) -> BlockHash:
    """The hash of one full block that follows the prefix hashed as `parent` (`ROOT_HASH` for the first block)."""
    digest = hashlib.sha256(parent)
    digest.update(struct.pack(f"<{len(token_ids)}q", *token_ids))
    for key in extra_keys:
        encoded = key.encode()
        digest.update(
            struct.pack("<q", len(encoded)) + encoded
        )  # the length keeps ("ab", "c") apart from ("a", "bc")
    return digest.digest()


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


class PrefixCache:
    """hash -> the blocks with that content. It never owns a block: the pool tells it when one appears or is evicted."""

    def __init__(self) -> None:
        self._blocks: dict[BlockHash, dict[int, KVCacheBlock]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._blocks.values()))

    def insert(self, block_hash: BlockHash, block: KVCacheBlock) -> None:
        self._blocks.setdefault(block_hash, {})[block.block_id] = block

    def get(self, block_hash: BlockHash) -> KVCacheBlock | None:
        """Any block with this content (the one cached first), or None."""
        same = self._blocks.get(block_hash)
        return next(iter(same.values())) if same else None

    def remove(self, block_hash: BlockHash, block: KVCacheBlock) -> None:
        same = self._blocks[block_hash]
        del same[block.block_id]
        if not same:
            del self._blocks[block_hash]

    def check_integrity(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Assert that map and blocks tell the same story."""
        mapped = {(h, block_id) for h, same in self._blocks.items() for block_id in same}
        marked = {(block.block_hash, block.block_id) for block in blocks if block.block_hash is not None}
        assert mapped == marked, "the prefix cache and the blocks' hashes disagree"
