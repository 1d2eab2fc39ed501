"""Exercise 9.1: The chained hash."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from minivllm.core.block import BlockHash


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
