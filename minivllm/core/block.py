"""KVCacheBlock: one physical block, as the control plane sees it: a number and its book-keeping, no memory."""

from __future__ import annotations

from dataclasses import dataclass, field

BlockHash = bytes  # 32 bytes of sha256


@dataclass(slots=True, eq=False)
class KVCacheBlock:
    """One physical block: room for `block_size` tokens' keys and values in every layer."""

    block_id: int
    ref_cnt: int = 0  # how many block tables hold this block
    block_hash: BlockHash | None = None  # set while the block's full content may be found by the prefix cache
    prev_free: KVCacheBlock | None = field(default=None, repr=False)
    next_free: KVCacheBlock | None = field(default=None, repr=False)
