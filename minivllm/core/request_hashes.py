"""The chained block hashes of each request, computed once and only as far as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from minivllm.core.block import BlockHash
from minivllm.core.prefix_cache import ROOT_HASH, hash_block_tokens
from minivllm.request import Request

NUM_REMEMBERED = 4096  # blocks whose hash is not computed again, whoever has the same tokens

HashBlockTokens = Callable[[BlockHash, Sequence[int], Sequence[str]], BlockHash]


class RequestHashes:
    """request id -> hashes of its full blocks of known tokens. Tokens never change, so neither do hashes."""

    def __init__(self, block_size: int, hash_block: HashBlockTokens = hash_block_tokens) -> None:
        self.block_size = block_size
        self._hash_block = lru_cache(NUM_REMEMBERED)(hash_block)  # many requests begin alike
        self._hashes: dict[str, list[BlockHash]] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def first(self, request: Request, num_blocks: int) -> list[BlockHash]:
        """The hashes of the request's first `num_blocks` blocks, all of which must be full."""
        hashes = self._hashes.setdefault(request.request_id, [])
        if len(hashes) < num_blocks:
            self._extend(hashes, request, num_blocks)
        return hashes[:num_blocks]

    def _extend(self, hashes: list[BlockHash], request: Request, num_blocks: int) -> None:
        size = self.block_size
        tokens = request.tokens_between(len(hashes) * size, num_blocks * size)
        parent = hashes[-1] if hashes else ROOT_HASH
        extra_keys = () if hashes else request.cache_keys  # of the first block: the chain carries them on
        for start in range(0, len(tokens), size):
            parent = self._hash_block(parent, tuple(tokens[start : start + size]), extra_keys)
            hashes.append(parent)
            extra_keys = ()

    def forget(self, request: Request) -> None:
        """The request is over."""
        self._hashes.pop(request.request_id, None)
