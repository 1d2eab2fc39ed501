"""Token by token, in Python's own integers."""

import numpy as np


def slot_mapping(block_tables, rows, positions, block_size):
    slots = []
    for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
        index, offset = divmod(position, block_size)
        slots.append(int(block_tables[row, index]) * block_size + offset)
    return np.array(slots, dtype=np.int64)
