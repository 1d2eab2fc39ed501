"""Exercise 7.6: The decode kernel. (implement, about 45 minutes)

PagedAttention for decoding: each request has one query. Program (r, h) walks over the blocks of
request r and computes the output of query head h, which reads kv head h // GROUP.

`attend_blocks` is the walk: the online softmax of exercise 6.2, with one row. It returns (highest,
total, acc) and does not divide, as exercise 7.7 needs these three. `decode_kernel` finds out who it
is, loads the query, walks, divides, stores.

Nothing is a power of two here but the tiles: B_PAD lanes for BLOCK_SIZE slots, D_PAD lanes for
HEAD_SIZE numbers. Slots behind the last token hold anything, even NaN.

Check: python -m minivllm.course check 7.6     (or: python -m pytest exercises/ch07_triton/decode.py)
Stuck: python -m minivllm.course hint 7.6
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def attend_blocks(
    query,  # [D_PAD] zeros behind HEAD_SIZE
    key_ptr,  # [N, B, K, D] the cache
    value_ptr,  # likewise
    block_table_ptr,  # this request's row of the block tables
    first,  # walk over the logical blocks [first, last)
    last,
    seq_len,
    kv_head,
    num_kv_heads,
    scale,
    BLOCK_SIZE: tl.constexpr,
    B_PAD: tl.constexpr,  # BLOCK_SIZE rounded up to a power of two
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,  # HEAD_SIZE rounded up to a power of two
):
    """Walk with an online softmax -> (highest, total, acc [D_PAD]). No block: (-inf, 0, zeros)."""
    raise NotImplementedError("exercise 7.6: attend_blocks")


@triton.jit
def decode_kernel(
    out_ptr,  # [R, H, D]
    query_ptr,  # likewise
    key_ptr,
    value_ptr,
    block_tables_ptr,  # [R, max_blocks]
    seq_lens_ptr,  # [R]
    table_stride,
    num_kv_heads,
    scale,
    GROUP: tl.constexpr,  # query heads of a kv head
    BLOCK_SIZE: tl.constexpr,
    B_PAD: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
):
    """Program (r, h) computes the output of request r and query head h."""
    raise NotImplementedError("exercise 7.6: decode_kernel")


def decode(
    out: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
) -> None:
    """query [R, H, D], one token of each request, over caches [N, B, K, D] -> out [R, H, D]."""
    num_requests, num_heads, head_size = query.shape
    block_size, num_kv_heads = key_cache.shape[1:3]
    decode_kernel[(num_requests, num_heads)](
        out,
        query,
        key_cache,
        value_cache,
        block_tables,
        seq_lens,
        block_tables.stride(0),
        num_kv_heads,
        scale,
        GROUP=num_heads // num_kv_heads,
        BLOCK_SIZE=block_size,
        B_PAD=triton.next_power_of_2(block_size),
        HEAD_SIZE=head_size,
        D_PAD=triton.next_power_of_2(head_size),
    )
