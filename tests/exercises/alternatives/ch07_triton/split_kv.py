"""Shares that differ by at most one block, and a reduce that goes from state to state."""

import torch
import triton
import triton.language as tl

from minivllm.course.extra.ch07_decode import attend_blocks


@triton.jit
def split_kernel(
    states_ptr, query_ptr, key_ptr, value_ptr, block_tables_ptr, seq_lens_ptr, table_stride, num_kv_heads, scale,
    SPLITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_SIZE: tl.constexpr, B_PAD: tl.constexpr, HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
):  # fmt: skip
    request, head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dims = tl.arange(0, D_PAD)
    row = request * tl.num_programs(1) + head
    query = tl.load(query_ptr + row * HEAD_SIZE + dims, mask=dims < HEAD_SIZE, other=0.0)
    seq_len = tl.load(seq_lens_ptr + request)
    num_blocks = tl.cdiv(seq_len, BLOCK_SIZE)
    table_ptr = block_tables_ptr + request * table_stride
    highest, total, acc = attend_blocks(
        query, key_ptr, value_ptr, table_ptr, piece * num_blocks // SPLITS, (piece + 1) * num_blocks // SPLITS, seq_len,
        head // GROUP, num_kv_heads, scale, BLOCK_SIZE, B_PAD, HEAD_SIZE, D_PAD,
    )  # fmt: skip
    state_ptr = states_ptr + (row * SPLITS + piece) * (HEAD_SIZE + 2)
    tl.store(state_ptr + dims, acc, mask=dims < HEAD_SIZE)
    tl.store(state_ptr + HEAD_SIZE, total)
    tl.store(state_ptr + HEAD_SIZE + 1, highest)


@triton.jit
def reduce_kernel(out_ptr, states_ptr, SPLITS: tl.constexpr, HEAD_SIZE: tl.constexpr, D_PAD: tl.constexpr):
    row, dims = tl.program_id(0), tl.arange(0, D_PAD)
    highest = tl.load(states_ptr + row * SPLITS * (HEAD_SIZE + 2) + HEAD_SIZE + 1)
    for piece in range(SPLITS):
        highest = tl.maximum(
            highest, tl.load(states_ptr + (row * SPLITS + piece) * (HEAD_SIZE + 2) + HEAD_SIZE + 1)
        )
    whole = 0.0
    acc = tl.zeros([D_PAD], tl.float32)
    for piece in range(SPLITS):
        state_ptr = states_ptr + (row * SPLITS + piece) * (HEAD_SIZE + 2)
        factor = tl.exp(tl.load(state_ptr + HEAD_SIZE + 1) - highest)
        whole += factor * tl.load(state_ptr + HEAD_SIZE)
        acc += factor * tl.load(state_ptr + dims, mask=dims < HEAD_SIZE, other=0.0)
    tl.store(out_ptr + row * HEAD_SIZE + dims, acc / whole, mask=dims < HEAD_SIZE)


def decode_split(out, query, key_cache, value_cache, block_tables, seq_lens, scale, num_splits):
    requests, heads, head_size = query.shape
    block_size, kv_heads = key_cache.shape[1:3]
    states = torch.full((requests, heads, num_splits, head_size + 2), torch.nan, device=query.device)
    sizes = {"SPLITS": num_splits, "HEAD_SIZE": head_size, "D_PAD": triton.next_power_of_2(head_size)}
    rest = {"GROUP": heads // kv_heads, "BLOCK_SIZE": block_size, "B_PAD": triton.next_power_of_2(block_size)}
    caches = key_cache, value_cache, block_tables, seq_lens, block_tables.stride(0), kv_heads, scale
    split_kernel[(requests, heads, num_splits)](states, query, *caches, **sizes, **rest)
    reduce_kernel[(requests * heads,)](out, states, **sizes)
