"""Paged: blocks of a fixed size, taken one at a time when they are needed. The engine's own BlockPool and BlockTable.

A request wastes at most the unwritten part of its last block, less than one block, and no block is ever too small for
whoever waits. The price is the block table, and that running out is met by preempting whoever came last.
Source: PagedAttention (SOSP 2023), sections 4.2 to 4.5.
"""

from __future__ import annotations

from minivllm.core.block_pool import BlockPool
from minivllm.core.block_table import BlockTable
from minivllm.core.integrity import check_integrity
from minivllm.sim.trace import TraceRequest
from minivllm.sim.usage import Ledger, Piece, Usage, count_usage


class PagedPolicy:
    """`capacity // block_size` blocks. Slots that make no full block can never be used, and count as external.

    Raises:
        ValueError: a block size below 1, or larger than the capacity.
    """

    def __init__(self, capacity: int, block_size: int = 16, name: str = "paged") -> None:
        if not 1 <= block_size <= capacity:
            raise ValueError(
                f"block_size must be in [1, {capacity}], the capacity in tokens, not {block_size}"
            )
        self.name = name
        self.capacity = capacity
        self.num_copied_tokens = 0
        self.block_size = block_size
        self._num_blocks = capacity // block_size
        self._pool = BlockPool(
            self._num_blocks + 1, enable_caching=False
        )  # one more: the null block is never handed out
        self._tables: dict[str, BlockTable] = {}
        self._ledger = Ledger()

    def check_fits_alone(self, request: TraceRequest) -> None:
        """See `MemoryPolicy`."""
        room = self._num_blocks * self.block_size
        if request.num_kv_tokens > room:
            raise ValueError(
                f"request {request.request_id!r} needs {request.num_kv_tokens} tokens, and {self._num_blocks} blocks "
                f"of {self.block_size} hold {room}: raise capacity, or shorten the request"
            )

    def admit(self, request: TraceRequest, num_tokens: int) -> bool:
        """See `MemoryPolicy`. All of the known tokens must fit at once, as in the engine's scheduler."""
        table = BlockTable(self.block_size)
        if not self._extend(table, num_tokens):
            return False
        self._tables[request.request_id] = table
        self._ledger.open(request.request_id, request.num_kv_tokens, num_tokens, table.capacity)
        return True

    def append(self, request_id: str) -> bool:
        """See `MemoryPolicy`. False: the last block is full, and no block is free."""
        table, account = self._tables[request_id], self._ledger.accounts[request_id]
        if account.used == table.capacity:
            if not self._extend(table, account.used + 1):
                return False
            self._ledger.resize(request_id, table.capacity)
        self._ledger.write(request_id)
        return True

    def _extend(self, table: BlockTable, num_tokens: int) -> bool:
        num_missing = table.num_blocks_missing(num_tokens)
        if num_missing > self._pool.num_free_blocks:
            return False
        table.append(self._pool.get_new_blocks(num_missing))
        return True

    def release(self, request_id: str) -> None:
        """See `MemoryPolicy`."""
        self._pool.free_blocks(reversed(self._tables.pop(request_id)))
        self._ledger.close(request_id)

    def usage(self, head: tuple[TraceRequest, int] | None) -> Usage:
        """See `MemoryPolicy`. Whoever waits does so because too few blocks are free, not because they lie badly."""
        free = self._pool.num_free_blocks * self.block_size
        unpaged = self.capacity - self._num_blocks * self.block_size
        return count_usage(self._ledger.accounts.values(), [free])._replace(external=unpaged)

    def layout(self) -> list[Piece]:
        """See `MemoryPolicy`. One piece per block: b lies at (b - 1) * block_size, as block 0 is the null block."""
        found = []
        for request_id, table in self._tables.items():
            account = self._ledger.accounts[request_id]
            for index, block_id in enumerate(table.block_ids):
                first = index * self.block_size
                used = min(self.block_size, account.used - first)
                reserved = min(self.block_size, account.need - first) - used
                found.append(
                    Piece(request_id, (block_id - 1) * self.block_size, self.block_size, used, reserved)
                )
        return sorted(found, key=lambda piece: piece.start)

    def check_integrity(self) -> None:
        """Assert that no block is lost."""
        check_integrity(self._pool, self._tables.values())
