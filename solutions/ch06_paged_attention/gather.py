"""Exercise 6.1: The paged gather."""

from torch import Tensor


def gather_blocks(cache: Tensor, block_table: Tensor, seq_len: int) -> Tensor:
    """Collect one request's context in the order of its positions.

    Args:
        cache: [N, B, K, D].
        block_table: [max_blocks] physical block of each logical block; entries beyond the context mean nothing.
        seq_len: tokens of the context.

    Returns:
        [seq_len, K, D].
    """
    num_blocks = -(-seq_len // cache.shape[1])
    blocks = cache[block_table[:num_blocks].long()]  # [num_blocks, B, K, D]
    return blocks.flatten(0, 1)[:seq_len]
