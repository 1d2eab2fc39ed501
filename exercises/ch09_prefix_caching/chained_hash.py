"""Exercise 9.1: The chained hash. (implement, about 15 minutes)

A name for the content of a full block. Keys and values of a token depend on all tokens before it,
so the name has to tell the whole prefix apart, and not only the block's own tokens. It need not
read the prefix again, as the block before has such a name already, its hash:

    hash of block 0 = H(ROOT_HASH,       tokens of block 0, extra keys)
    hash of block 1 = H(hash of block 0, tokens of block 1)

The extra keys are words that change what a block holds, or who may find it: an adapter, a tenant's
salt. All blocks of an engine have equally many tokens. The result is bytes, at least 16 of them,
and the same in every run of the program.

Yours can serve: python -m minivllm.serve --mine hash_block_tokens

Check: python -m minivllm.course check 9.1     (or: python -m pytest exercises/ch09_prefix_caching/chained_hash.py)
Stuck: python -m minivllm.course hint 9.1
"""

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
    raise NotImplementedError("exercise 9.1: hash_block_tokens")
