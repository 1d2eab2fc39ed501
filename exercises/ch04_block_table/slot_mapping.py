"""Exercise 4.3: The slot mapping of a ragged batch. (implement, about 10 minutes)

One step computes tokens of several requests in one flat batch, as many of each as there are to
compute. For every token say into which slot its keys and values go. No loop over tokens is needed:
numpy takes whole arrays as indices.

    block_tables [[7, 1, 4, 6],   rows      [0, 0, 0, 1]    which table
                  [2, 3, 0, 0]]   positions [10, 11, 12, 7] which place in its own request


Check: python -m minivllm.course check 4.3     (or: python -m pytest exercises/ch04_block_table/slot_mapping.py)
Stuck: python -m minivllm.course hint 4.3
"""

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
    raise NotImplementedError("exercise 4.3: slot_mapping")
