"""Number by number, with Python's integers and a table of where each output lies."""

import torch

BITS = 4
PACK = 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
LOWEST_BIT = [0, 16, 4, 20, 8, 24, 12, 28]  # of output 0, 1, ...


def pack(numbers):
    rows = []
    for row in numbers.tolist():
        words = []
        for begin in range(0, len(row), PACK):
            word = 0
            for output in range(PACK):
                word |= row[begin + output] << LOWEST_BIT[output]
            words.append(int.from_bytes(word.to_bytes(4, "little"), "little", signed=True))
        rows.append(words)
    return torch.tensor(rows, dtype=torch.int32)


def unpack(words):
    rows = [[(word & 0xFFFFFFFF) >> bit & 15 for word in row for bit in LOWEST_BIT] for row in words.tolist()]
    return torch.tensor(rows, dtype=torch.int32)
