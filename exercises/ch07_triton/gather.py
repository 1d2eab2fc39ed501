"""Exercise 7.3: Warm-up: gather through a table. (implement, about 15 minutes)

The paged gather of exercise 6.1 as a kernel. A slot holds a single number here, so that the way
there is all there is:

    position  ->  logical block  ->  physical block (a load!)  ->  slot  ->  the number (a second load)

A lane of a tile is a position. A tile has nothing to do with a block: each lane looks its own block
up.

Check: python -m minivllm.course check 7.3     (or: python -m pytest exercises/ch07_triton/gather.py)
Stuck: python -m minivllm.course hint 7.3
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def gather_kernel(cache_ptr, block_table_ptr, out_ptr, seq_len, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr):
    """out[p] = what the cache holds for position p, for every p below seq_len. A slot holds one number here."""
    raise NotImplementedError("exercise 7.3: gather_kernel")


def gather(cache: Tensor, block_table: Tensor, out: Tensor, tile: int) -> None:
    """cache [N, B], block_table [max_blocks] -> out [seq_len]."""
    seq_len = len(out)
    grid = (triton.cdiv(seq_len, tile),)
    gather_kernel[grid](cache, block_table, out, seq_len, BLOCK_SIZE=cache.shape[1], TILE=tile)
