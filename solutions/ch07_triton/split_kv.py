"""Exercise 7.7: Split-KV, and the reduce behind it."""

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
    request, head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dims = tl.arange(0, D_PAD)
    mask = dims < HEAD_SIZE
    row = request * tl.num_programs(1) + head
    query = tl.load(query_ptr + row * HEAD_SIZE + dims, mask=mask, other=0.0)
    seq_len = tl.load(seq_lens_ptr + request)
    num_blocks = tl.cdiv(seq_len, BLOCK_SIZE)
    share = tl.cdiv(num_blocks, SPLITS)  # the last pieces may be empty
    highest, total, acc = attend_blocks(
        query,
        key_ptr,
        value_ptr,
        block_tables_ptr + request * table_stride,
        tl.minimum(piece * share, num_blocks),
        tl.minimum(piece * share + share, num_blocks),
        seq_len,
        head // GROUP,
        num_kv_heads,
        scale,
        BLOCK_SIZE,
        B_PAD,
        HEAD_SIZE,
        D_PAD,
    )
    place = row * SPLITS + piece
    tl.store(highest_ptr + place, highest)
    tl.store(total_ptr + place, total)
    tl.store(acc_ptr + place * HEAD_SIZE + dims, acc, mask=mask)


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
    row = tl.program_id(0)
    pieces, dims = tl.arange(0, SPLITS), tl.arange(0, D_PAD)
    mask = dims < HEAD_SIZE
    highest = tl.load(highest_ptr + row * SPLITS + pieces)  # [SPLITS]
    total = tl.load(total_ptr + row * SPLITS + pieces)
    places = (row * SPLITS + pieces)[:, None] * HEAD_SIZE + dims[None, :]
    acc = tl.load(acc_ptr + places, mask=mask[None, :], other=0.0)  # [SPLITS, D_PAD]
    factors = tl.exp(highest - tl.max(highest, axis=0))  # an empty piece: exp(-inf) = 0
    out = tl.sum(acc * factors[:, None], axis=0) / tl.sum(total * factors, axis=0)
    tl.store(out_ptr + row * HEAD_SIZE + dims, out, mask=mask)


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
