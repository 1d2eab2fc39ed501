"""Blocks are counted, and the candidates are tried from the largest down."""

from fractions import Fraction


def num_blocks(num_tokens, block_size):
    return (num_tokens + block_size - 1) // block_size


def empty_slots(num_tokens, block_size):
    return num_blocks(num_tokens, block_size) * block_size - num_tokens


def waste_share(requests, block_size):
    allocated = written = 0
    for prompt, output in requests:
        num_tokens = prompt
        for _ in range(output):
            allocated += num_blocks(num_tokens, block_size) * block_size
            written += num_tokens
            num_tokens += 1
    return float(Fraction(allocated - written, allocated))


def choose_block_size(requests, block_sizes, max_share):
    for size in sorted(block_sizes, reverse=True):
        if waste_share(requests, size) <= max_share:
            return size
    return None
