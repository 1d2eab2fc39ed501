"""A KV cache that holds token ids in the place of keys and values, so that a mix-up can be seen at once.

Graders and notebooks drive the learner's allocator and sharing functions with it. Every slot holds one number; a
request that reads back somebody else's number has found a bug that a real model would turn into nonsense text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import BlockPool
from minivllm.core.block_table import BlockTable
from minivllm.core.integrity import check_integrity
from minivllm.core.sharing import copy_on_write, fork_table, shared_blocks


class ToyMemory:
    """Requests that write, fork and end. The functions are the package's unless others are given.

    Args:
        num_blocks: counts the null block.
        block_size: tokens of a block.
        pool_class: the allocator.
        fork_table, shared_blocks, copy_on_write: see minivllm/core/sharing.py.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        pool_class: type[BlockPool] = BlockPool,
        fork_table: Callable[[BlockPool, BlockTable, int], BlockTable] = fork_table,
        shared_blocks: Callable[[BlockTable, int, int], Sequence[int]] = shared_blocks,
        copy_on_write: Callable[[BlockPool, BlockTable, int, KVCacheBlock], tuple[int, int]] = copy_on_write,
    ) -> None:
        self.block_size = block_size
        self.pool = pool_class(num_blocks)
        self.tables: dict[str, BlockTable] = {}
        self.num_tokens: dict[str, int] = {}
        self.num_copies = 0  # blocks copied since the beginning
        self._slots: dict[int, int] = {}
        self._fork_table = fork_table
        self._shared_blocks = shared_blocks
        self._copy_on_write = copy_on_write

    @property
    def num_held(self) -> int:
        """How many different blocks the requests hold."""
        return self.pool.num_blocks - 1 - self.pool.num_free_blocks

    def begin(self, name: str) -> None:
        """A new request without tokens."""
        self.tables[name] = BlockTable(self.block_size)
        self.num_tokens[name] = 0

    def write(self, name: str, *tokens: int) -> bool:
        """Append tokens to a request. False, and nothing changed, if there are too few free blocks."""
        table, start = self.tables[name], self.num_tokens[name]
        stop = start + len(tokens)
        shared = self._shared_blocks(table, start, stop)
        num_needed = table.num_blocks_missing(stop) + len(shared)
        if num_needed > self.pool.num_free_blocks:
            return False
        new_blocks = self.pool.get_new_blocks(num_needed)
        copies = [self._copy_on_write(self.pool, table, index, new_blocks.pop()) for index in shared]
        table.append(new_blocks)
        for source, target in copies:
            self._copy(source, target)
        for position, token in enumerate(tokens, start):
            self._slots[table.slot(position)] = token
        self.num_tokens[name] = stop
        return True

    def fork(self, parent: str, child: str) -> None:
        """A new request with the parent's tokens, in the parent's blocks."""
        self.tables[child] = self._fork_table(self.pool, self.tables[parent], self.num_tokens[parent])
        self.num_tokens[child] = self.num_tokens[parent]

    def end(self, name: str) -> None:
        """Give the request's blocks back, the last one first."""
        self.pool.free_blocks(reversed(self.tables.pop(name)))
        del self.num_tokens[name]

    def read(self, name: str) -> list[int | None]:
        """The request's tokens as they stand in its blocks."""
        return [self._slots.get(self.tables[name].slot(i)) for i in range(self.num_tokens[name])]

    def check(self) -> None:
        """Assert that no block is lost."""
        check_integrity(self.pool, self.tables.values())

    def _copy(self, source: int, target: int) -> None:
        self.num_copies += 1
        for offset in range(self.block_size):
            content = self._slots.get(source * self.block_size + offset)
            if content is not None:
                self._slots[target * self.block_size + offset] = content
