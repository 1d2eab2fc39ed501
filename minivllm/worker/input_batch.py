"""InputBatch: the running requests as rows of arrays that persist from step to step.

A step touches a few numbers of each row instead of building everything again: the scheduler sends differences, and
the row keeps the tokens, the block table and the sampling parameters. Rows are kept dense: when one leaves, the last
moves in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minivllm.core.block_table import cdiv
from minivllm.request import Request


class InputBatch:
    """Up to `max_num_seqs` rows; row `i` belongs to `request_ids[i]`."""

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int) -> None:
        max_blocks = cdiv(max_model_len, block_size)
        self.max_num_seqs = max_num_seqs
        self.token_ids = np.zeros((max_num_seqs, max_model_len), dtype=np.int32)
        self.num_tokens = np.zeros(max_num_seqs, dtype=np.int32)
        self.block_tables = np.zeros(
            (max_num_seqs, max_blocks), dtype=np.int32
        )  # unused entries: the null block
        self.num_rejected = np.zeros(max_num_seqs, dtype=np.int64)  # drafts of the request that were wrong
        self.requests: list[Request] = []
        self.rows: dict[str, int] = {}
        self.composition = (
            0  # grows whenever a row comes, goes or moves: what was derived from the rows is stale
        )

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, request: Request, token_ids: Sequence[int], block_ids: Sequence[int]) -> None:
        """A new last row."""
        assert request.request_id not in self.rows, f"request {request.request_id} has a row already"
        row = len(self.requests)
        assert row < self.max_num_seqs, "more running requests than max_num_seqs"
        self.requests.append(request)
        self.rows[request.request_id] = row
        self.token_ids[row, : len(token_ids)] = token_ids
        self.num_tokens[row] = len(token_ids)
        self.num_rejected[row] = request.num_rejected_drafts
        self.block_tables[row] = 0
        self.block_tables[row, : len(block_ids)] = block_ids
        self.composition += 1

    def remove(self, request_id: str) -> None:
        """Drop a row, if there is one; the last row takes its place."""
        row = self.rows.pop(request_id, None)
        if row is None:
            return
        last = len(self.requests) - 1
        if row != last:
            moved = self.requests[last]
            self.requests[row], self.rows[moved.request_id] = moved, row
            for array in (self.token_ids, self.num_tokens, self.num_rejected, self.block_tables):
                array[row] = array[last]
        self.requests.pop()
        self.composition += 1

    def update_blocks(self, request_id: str, updates: Sequence[tuple[int, int]]) -> None:
        """Apply (logical index, physical block id) changes to a row's block table."""
        row = self.block_tables[self.rows[request_id]]
        for index, block_id in updates:
            row[index] = block_id

    def replace_last_token(self, request_id: str, token_id: int) -> None:
        """The last token was not the sampler's to choose."""
        row = self.rows[request_id]
        self.token_ids[row, self.num_tokens[row] - 1] = token_id

    def known_token_ids(self) -> dict[str, list[int]]:
        """Request id -> its tokens."""
        return {
            r.request_id: self.token_ids[i, : self.num_tokens[i]].tolist()
            for i, r in enumerate(self.requests)
        }

    def write_drafts(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Put drafts behind a row's known tokens, where the step reads its input."""
        row = self.rows[request_id]
        start = self.num_tokens[row]
        self.token_ids[row, start : start + len(token_ids)] = token_ids

    def append_tokens(
        self, rows: np.ndarray, token_ids: np.ndarray, offset: np.ndarray | None = None
    ) -> None:
        """One sampled token for each of `rows`; `offset` counts those of a row that occurs several times."""
        places = self.num_tokens[rows]
        if offset is None:
            self.token_ids[rows, places] = token_ids
            self.num_tokens[rows] = places + 1
            return
        self.token_ids[rows, places + offset] = token_ids
        np.add.at(self.num_tokens, rows, 1)
