"""Exercise 4.2: The block table. (implement, about 15 minutes)

A request sees positions 0, 1, 2, ...; its block table knows in which physical block each run of
`block_size` positions lies. Write the four members that are left out: two look up a position, two
say when the request must get another block.

    positions    0 1 2 3 | 4 5 6 7 | 8 9        block size 4
    block table  7       | 1       | 4          position 6: block 1, offset 2, slot 1 * 4 + 2 = 6


Check: python -m minivllm.course check 4.2     (or: python -m pytest exercises/ch04_block_table/block_table.py)
Stuck: python -m minivllm.course hint 4.2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minivllm.core.block import KVCacheBlock


def cdiv(numerator: int, denominator: int) -> int:
    """Division rounded up: how many blocks (`denominator` tokens each) hold `numerator` tokens."""
    return -(-numerator // denominator)


class BlockTable(Sequence[KVCacheBlock]):
    """The physical blocks of one request, in logical order."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._blocks: list[KVCacheBlock] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # list's own overloads
        return self._blocks[index]

    def __iter__(self) -> Iterator[KVCacheBlock]:
        return iter(self._blocks)

    @property
    def block_ids(self) -> list[int]:
        return [block.block_id for block in self._blocks]

    @property
    def capacity(self) -> int:
        """How many tokens fit without another block."""
        raise NotImplementedError("exercise 4.2: BlockTable.capacity")

    def num_blocks_missing(self, num_tokens: int) -> int:
        """How many more blocks `num_tokens` tokens in all would need (0 if they fit)."""
        raise NotImplementedError("exercise 4.2: BlockTable.num_blocks_missing")

    def append(self, blocks: Sequence[KVCacheBlock]) -> None:
        self._blocks.extend(blocks)

    def replace(self, index: int, block: KVCacheBlock) -> KVCacheBlock:
        """Put `block` at logical `index` (copy-on-write, sliding window); returns the one that stood there."""
        old, self._blocks[index] = self._blocks[index], block
        return old

    def locate(self, position: int) -> tuple[int, int]:
        """(physical block id, offset inside it) of a token position."""
        raise NotImplementedError("exercise 4.2: BlockTable.locate")

    def slot(self, position: int) -> int:
        """The token's row in the KV cache seen as one array of N * B rows."""
        raise NotImplementedError("exercise 4.2: BlockTable.slot")
