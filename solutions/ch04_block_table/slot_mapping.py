"""Exercise 4.3: The slot mapping of a ragged batch."""

from __future__ import annotations

import numpy as np


def slot_mapping(
    block_tables: np.ndarray, rows: np.ndarray, positions: np.ndarray, block_size: int
) -> np.ndarray:
    """The slot of each token: its row in the KV cache seen as one array of N * B rows.

    Args:
        block_tables: [rows, max_blocks] physical block ids in logical order.
        rows: [T] which block table each token belongs to.
        positions: [T] its place in its own sequence.
        block_size: tokens in a block (B).

    Returns:
        [T] int64: block id * B + offset inside the block.
    """
    block_ids = block_tables[rows, positions // block_size].astype(np.int64)  # [T]
    return block_ids * block_size + positions % block_size
