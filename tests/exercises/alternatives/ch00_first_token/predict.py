"""Counted instead of computed."""


def count(num_tokens: int, block_size: int) -> tuple[int, int]:
    blocks = empty = 0
    for _ in range(num_tokens):
        if empty == 0:
            blocks, empty = blocks + 1, block_size
        empty -= 1
    return blocks, empty


def blocks_of_16() -> int:
    return count(41, 16)[0]


def empty_slots_of_16() -> int:
    return count(41, 16)[1]


def blocks_of_4() -> int:
    return count(41, 4)[0]


def empty_slots_of_4() -> int:
    return count(41, 4)[1]


def most_empty_slots(block_size: int) -> int:
    return max(count(num_tokens, block_size)[1] for num_tokens in range(1, 3 * block_size))
