"""Router: which replica gets the next request. Each replica has a KV cache of its own, so it matters who has seen what.

The rule is one number: what the replica would have to compute before this request is done with its prompt.

    cost = tokens that the replica still owes others + tokens of this prompt that it has not seen

Least-loaded and prefix-aware are its two ends: without a shared prefix the shorter queue wins; a prefix is worth
exactly as much waiting as it saves. What a replica has seen is remembered here by block hash, from the moment of
routing on, so that a burst over one new prefix stays together although nothing is computed yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from minivllm.core.prefix_cache import ROOT_HASH, hash_block_tokens


class Router:
    """Remembers, for each replica, the last blocks of prompts that went there: as many as its cache can hold."""

    def __init__(self, num_replicas: int, block_size: int, num_blocks: int) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._seen: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(num_replicas)]

    def choose(self, token_ids: Sequence[int], owed: Sequence[int], cache_salt: str | None = None) -> int:
        """The replica for a prompt; it is remembered as having seen it.

        Args:
            token_ids: the prompt.
            owed: tokens that each replica has yet to compute for others.
            cache_salt: prompts share blocks only with those of the same salt.
        """
        hashes = self._hashes(token_ids, cache_salt)
        costs = [load + len(token_ids) - self._num_seen(replica, hashes) for replica, load in enumerate(owed)]
        chosen = costs.index(min(costs))
        self._remember(chosen, hashes)
        return chosen

    def _hashes(self, token_ids: Sequence[int], cache_salt: str | None) -> list[bytes]:
        """One hash for each full block. The last token is always computed, so it never counts as seen."""
        extra_keys = () if cache_salt is None else (f"salt:{cache_salt}",)
        hashes, parent = [], ROOT_HASH
        for start in range(0, (len(token_ids) - 1) // self.block_size * self.block_size, self.block_size):
            parent = hash_block_tokens(parent, token_ids[start : start + self.block_size], extra_keys)
            hashes.append(parent)
        return hashes

    def _num_seen(self, replica: int, hashes: Sequence[bytes]) -> int:
        """Tokens at the start of the prompt that the replica has seen."""
        count = 0
        while count < len(hashes) and hashes[count] in self._seen[replica]:
            count += 1
        return count * self.block_size

    def _remember(self, replica: int, hashes: Sequence[bytes]) -> None:
        seen = self._seen[replica]
        for block_hash in reversed(
            hashes
        ):  # the first block becomes the newest: prefixes outlive what follows them
            seen[block_hash] = None
            seen.move_to_end(block_hash)
        while len(seen) > self.num_blocks:
            seen.popitem(last=False)
