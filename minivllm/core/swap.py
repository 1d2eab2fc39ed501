"""Preemption's two ways: throw a request's blocks away and compute them again, or move them to another memory and back.

Source: PagedAttention (SOSP 2023), sections 4.5 and 7.3. vLLM v1 only recomputes; V0 had both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import BlockPool
from minivllm.core.integrity import check_integrity


@dataclass(frozen=True)
class PreemptionCosts:
    """The cost rule of preemption mode `auto`, in seconds; see `PreemptionCosts.swap_pays`."""

    recompute_per_token: float  # about 2 x parameters / (operations per second)
    swap_per_block: float  # one way: bytes of a block / (bytes per second)

    def swap_pays(self, num_tokens: int, num_blocks: int) -> bool:
        """Is moving `num_blocks` blocks out and in again cheaper than computing their `num_tokens` tokens again?"""
        return 2 * num_blocks * self.swap_per_block < num_tokens * self.recompute_per_token


class SwapSpace:
    """A second pool of blocks, in CPU memory, that holds the whole table of each swapped-out request."""

    def __init__(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks + 1, enable_caching=False)  # + 1: its null block
        self._tables: dict[str, list[KVCacheBlock]] = {}
        self._out: list[tuple[int, int]] = []
        self._in: list[tuple[int, int]] = []

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._tables

    def can_hold(self, num_blocks: int) -> bool:
        """Is there room for so many more blocks?"""
        return num_blocks <= self.pool.num_free_blocks

    def num_blocks_of(self, request_id: str) -> int:
        """How many blocks a swapped-out request has here."""
        return len(self._tables[request_id])

    def swap_out(self, request_id: str, blocks: Sequence[KVCacheBlock]) -> None:
        """Record that `blocks` are to be copied here. The caller may free them: the copy precedes every write."""
        assert not self._in, "a step swaps out first: its targets must not be blocks that it has yet to read"
        targets = self.pool.get_new_blocks(len(blocks))
        self._tables[request_id] = targets
        self._out += [
            (source.block_id, target.block_id) for source, target in zip(blocks, targets, strict=True)
        ]

    def swap_in(self, request_id: str, targets: Sequence[KVCacheBlock], first: int) -> None:
        """Record that the request's blocks from logical index `first` on are to be copied into `targets`."""
        sources = self._tables.pop(request_id)
        pairs = zip(sources[first:], targets, strict=True)
        self._in += [(source.block_id, target.block_id) for source, target in pairs]
        self.pool.free_blocks(reversed(sources))

    def discard(self, request_id: str) -> None:
        """The request is over, or will be computed again."""
        self.pool.free_blocks(reversed(self._tables.pop(request_id, [])))

    def take_operations(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(swap out, swap in) pairs recorded since the last call."""
        operations = self._out, self._in
        self._out, self._in = [], []
        return operations

    def check_integrity(self) -> None:
        """Assert that no swap block is lost."""
        check_integrity(self.pool, self._tables.values())
