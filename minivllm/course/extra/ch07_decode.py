"""Decode attention, one program for each request and query head: the plain form of kernels/paged_attention.py.

What the package's kernel adds: all heads of a group in one program, tiles that are no blocks, windows, soft caps.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
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
    offsets, dims = tl.arange(0, B_PAD), tl.arange(0, D_PAD)
    highest = float("-inf")
    total = 0.0
    acc = tl.zeros([D_PAD], tl.float32)
    for index in range(first, last):
        block = tl.load(block_table_ptr + index).to(tl.int64)  # in a large cache places pass 2**31
        is_there = (offsets < BLOCK_SIZE) & (index * BLOCK_SIZE + offsets < seq_len)  # [B_PAD]
        rows = (block * BLOCK_SIZE + offsets) * num_kv_heads + kv_head
        places = rows[:, None] * HEAD_SIZE + dims[None, :]  # [B_PAD, D_PAD]
        mask = is_there[:, None] & (dims < HEAD_SIZE)[None, :]
        keys = tl.load(key_ptr + places, mask=mask, other=0.0)
        scores = tl.sum(keys * query[None, :], axis=1) * scale  # [B_PAD]
        scores = tl.where(is_there, scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=0))
        weights = tl.exp(scores - new_highest)
        rescale = tl.exp(highest - new_highest)
        values = tl.load(value_ptr + places, mask=mask, other=0.0)
        total = total * rescale + tl.sum(weights, axis=0)
        acc = acc * rescale + tl.sum(weights[:, None] * values, axis=0)
        highest = new_highest
    return highest, total, acc


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
    request, head = tl.program_id(0), tl.program_id(1)
    dims = tl.arange(0, D_PAD)
    mask = dims < HEAD_SIZE
    row = (request * tl.num_programs(1) + head) * HEAD_SIZE
    query = tl.load(query_ptr + row + dims, mask=mask, other=0.0)
    seq_len = tl.load(seq_lens_ptr + request)
    _, total, acc = attend_blocks(
        query,
        key_ptr,
        value_ptr,
        block_tables_ptr + request * table_stride,
        0,
        tl.cdiv(seq_len, BLOCK_SIZE),
        seq_len,
        head // GROUP,
        num_kv_heads,
        scale,
        BLOCK_SIZE,
        B_PAD,
        HEAD_SIZE,
        D_PAD,
    )
    tl.store(out_ptr + row + dims, acc / total, mask=mask)


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
