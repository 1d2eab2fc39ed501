"""Exercise 4.2: The block table."""

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
        return len(self._blocks) * self.block_size

    def num_blocks_missing(self, num_tokens: int) -> int:
        """How many more blocks `num_tokens` tokens in all would need (0 if they fit)."""
        return max(0, cdiv(num_tokens, self.block_size) - len(self._blocks))

    def append(self, blocks: Sequence[KVCacheBlock]) -> None:
        self._blocks.extend(blocks)

    def replace(self, index: int, block: KVCacheBlock) -> KVCacheBlock:
        """Put `block` at logical `index` (copy-on-write, sliding window); returns the one that stood there."""
        old, self._blocks[index] = self._blocks[index], block
        return old

    def locate(self, position: int) -> tuple[int, int]:
        """(physical block id, offset inside it) of a token position."""
        index, offset = divmod(position, self.block_size)
        return self._blocks[index].block_id, offset

    def slot(self, position: int) -> int:
        """The token's row in the KV cache seen as one array of N * B rows."""
        block_id, offset = self.locate(position)
        return block_id * self.block_size + offset
