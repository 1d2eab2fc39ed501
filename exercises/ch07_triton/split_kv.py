"""Exercise 7.7: Split-KV, and the reduce behind it. (implement, about 35 minutes)

Two requests with long contexts keep 2 * H programs busy, and a GPU has room for hundreds. So cut
every context into SPLITS pieces of whole blocks, and let program (r, h, s) walk over piece s. It
cannot divide yet: it stores its state. A second kernel has one program for each request and head,
and merges the states (exercise 6.3) into the output.

    blocks of request r   | 0 | 1 | 2 | 3 | 4 |        SPLITS = 4, share = 2 blocks
                          |---s=0---|---s=1---|s=2|    s=3 is empty

A short context has pieces without any block. attend_blocks then gives (-inf, 0, zeros), and that
must be stored, too: the memory for the states begins full of NaN.

Check: python -m minivllm.course check 7.7     (or: python -m pytest exercises/ch07_triton/split_kv.py)
Stuck: python -m minivllm.course hint 7.7
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minivllm.course.extra.ch07_decode import attend_blocks


@triton.jit
def split_kernel(
    highest_ptr,  # [R, H, SPLITS]
    total_ptr,  # likewise
    acc_ptr,  # [R, H, SPLITS, D]
    query_ptr,  # [R, H, D]
    key_ptr,
    value_ptr,
    block_tables_ptr,  # [R, max_blocks]
    seq_lens_ptr,  # [R]
    table_stride,
    num_kv_heads,
    scale,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    B_PAD: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
):
    """Program (r, h, s) walks over piece s of request r's blocks, and stores the three parts of its state."""
    raise NotImplementedError("exercise 7.7: split_kernel")


@triton.jit
def reduce_kernel(
    out_ptr,  # [R, H, D]
    highest_ptr,
    total_ptr,
    acc_ptr,
    SPLITS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
):
    """Program (r * H + h) merges the SPLITS states of a request and head into its output."""
    raise NotImplementedError("exercise 7.7: reduce_kernel")


def decode_split(
    out: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    num_splits: int,
) -> None:
    """What `decode` does, with num_splits (a power of two) programs for each request and head."""
    num_requests, num_heads, head_size = query.shape
    block_size, num_kv_heads = key_cache.shape[1:3]
    states = query.new_full((2, num_requests, num_heads, num_splits), torch.nan, dtype=torch.float32)
    acc = states.new_full((num_requests, num_heads, num_splits, head_size), torch.nan)
    d_pad = triton.next_power_of_2(head_size)
    split_kernel[(num_requests, num_heads, num_splits)](
        states[0],
        states[1],
        acc,
        query,
        key_cache,
        value_cache,
        block_tables,
        seq_lens,
        block_tables.stride(0),
        num_kv_heads,
        scale,
        SPLITS=num_splits,
        GROUP=num_heads // num_kv_heads,
        BLOCK_SIZE=block_size,
        B_PAD=triton.next_power_of_2(block_size),
        HEAD_SIZE=head_size,
        D_PAD=d_pad,
    )
    reduce_kernel[(num_requests * num_heads,)](
        out, states[0], states[1], acc, SPLITS=num_splits, HEAD_SIZE=head_size, D_PAD=d_pad
    )
