"""Exercise 6.1: The paged gather. (implement, about 10 minutes)

The keys of one request lie in blocks, anywhere in the cache. Collect them into one tensor, in the
order of the positions. No loop is needed: a tensor of block ids can be an index.

    cache [N, B, K, D]     block_table [7, 3, 9, 0]     seq_len 10     ->     [10, K, D]     (B = 4)

The entries of the table behind the last block of the context mean nothing, and neither do the slots
behind its last token.

Check: python -m minivllm.course check 6.1     (or: python -m pytest exercises/ch06_paged_attention/gather.py)
Stuck: python -m minivllm.course hint 6.1
"""

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
    raise NotImplementedError("exercise 6.1: gather_blocks")
