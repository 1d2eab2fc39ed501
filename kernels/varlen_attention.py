"""Attention for mixed batches: prompts, pieces of prompts and single new tokens side by side, one kernel for all.

A request's queries are cut into tiles of BLOCK_Q tokens, and a program takes one tile for one kv head:

    query_start_loc    0         5   6            13                 R = 3 requests, T = 13 tokens, BLOCK_Q = 4
    tokens             | 0 1 2 3 4 | 5 | 6 7 8 9 10 11 12 |
    tiles              | a a a a b | c | d d d d e  e  e  |
    tile number          0       1   2   4       5                   3 is empty: nobody knew the lengths beforehand

    rows of a tile     (token 0, head 0) (token 0, head 1) ... (token 3, head G - 1)       G heads share the kv head

How many tiles are there, and whose is tile number n? Only the device knows the lengths, and asking it would stop the
pipeline. But request r can have its tiles begin at number query_start_loc[r] // BLOCK_Q + r: the "+ r" leaves room for
the one incomplete tile that each request may have. So T // BLOCK_Q + R programs are always enough, and each finds its
request by binary search; the few that find no tokens return. (vLLM's unified attention kernel numbers its tiles so.)

Torch twin: `paged_attention` in minivllm/attention/paged.py.
"""

import torch

from ._triton import check_can_run, next_power_of_2, tl, triton
from .fp8 import as_kernels_see_it
from .online_softmax import attend_tiles, divide
from .paged_attention import tile_size

ROWS = (
    64  # of a tile: what a matrix product on tensor cores likes; also enough work for an interpreted program
)


def varlen_attention_triton(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_tables: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Causal attention of a flat batch over the paged cache, which already holds this step's keys and values.

    Args:
        query: [T, H, D]; a token's H * D elements lie together. Query head h reads kv head h // (H // K).
        key_cache: [N, B, K, D], contiguous, in the query's type, a smaller one or 8-bit floats.
        value_cache: likewise.
        query_start_loc: [R + 1] int32.
        seq_lens: [R] int32; a request's queries are the last tokens of its context.
        block_tables: [R, max_blocks] int32, rows contiguous.
        scale: factor on the scores.
        window: how many of the latest tokens a token sees, itself included; None: all.
        soft_cap: scores become soft_cap * tanh(scores / soft_cap), as in Gemma 2; None: they stay.

    Returns:
        [T, H, D], contiguous; zeros for tokens beyond the last request (padding).
    """
    check_can_run(query.device.type)
    num_tokens, num_heads, head_size = query.shape
    _, block_size, num_kv_heads, _ = key_cache.shape
    group = num_heads // num_kv_heads
    rows = max(ROWS, next_power_of_2(group))
    block_q = rows // group  # a few rows stay idle where the group is no power of two
    num_tiles = num_tokens // block_q + len(seq_lens)
    d_pad = max(16, next_power_of_2(head_size))
    out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    _varlen_attention_kernel[(num_tiles, num_kv_heads)](
        out,
        query,
        as_kernels_see_it(key_cache),
        as_kernels_see_it(value_cache),
        query_start_loc,
        seq_lens,
        block_tables,
        len(seq_lens),
        query.stride(0),
        block_tables.stride(0),
        num_kv_heads * head_size,
        scale,
        WINDOW=window or 0,
        SOFT_CAP=soft_cap or 0.0,
        GROUP=group,
        BLOCK_Q=block_q,
        ROWS=rows,
        BLOCK_SIZE=block_size,
        HEAD_SIZE=head_size,
        D_PAD=d_pad,
        TILE=tile_size(d_pad, query.element_size()),
    )
    return out


@triton.jit
def find_request(query_start_loc_ptr, tile, num_requests, BLOCK_Q: tl.constexpr):
    """The last request whose first tile has at most this number."""
    low, high = 0, num_requests
    while low < high:
        middle = (low + high) // 2
        first_tile = tl.load(query_start_loc_ptr + middle) // BLOCK_Q + middle
        if first_tile <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _varlen_attention_kernel(
    out_ptr,  # [T, H, D]
    query_ptr,  # [T, H, D]
    key_ptr,
    value_ptr,
    query_start_loc_ptr,
    seq_lens_ptr,
    block_tables_ptr,
    num_requests,
    query_stride,
    table_stride,
    slot_stride,
    scale,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
    TILE: tl.constexpr,
):
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    request = find_request(query_start_loc_ptr, tile, num_requests, BLOCK_Q)
    start = tl.load(query_start_loc_ptr + request)
    query_len = tl.load(query_start_loc_ptr + request + 1) - start
    first_query = (tile - (start // BLOCK_Q + request)) * BLOCK_Q
    if first_query >= query_len:
        return
    seq_len = tl.load(seq_lens_ptr + request)

    rows, dims = tl.arange(0, ROWS), tl.arange(0, D_PAD)
    queries = first_query + rows // GROUP  # [ROWS] number of the row's token among the request's queries
    is_row = (rows < BLOCK_Q * GROUP) & (queries < query_len)
    tokens = (start + queries).to(tl.int64)
    in_token = (kv_head * GROUP + rows % GROUP)[:, None] * HEAD_SIZE + dims[None, :]
    mask = is_row[:, None] & (dims < HEAD_SIZE)[None, :]
    query = tl.load(query_ptr + tokens[:, None] * query_stride + in_token, mask=mask, other=0.0)

    first_position = seq_len - query_len + first_query  # of the tile's first token
    last = tl.minimum(first_position + BLOCK_Q, seq_len)  # what the tile's last token sees ends here
    first = tl.maximum(first_position - WINDOW + 1, 0) if WINDOW > 0 else 0
    _, total, acc = attend_tiles(
        query,
        seq_len - query_len + queries,
        key_ptr,
        value_ptr,
        block_tables_ptr + request.to(tl.int64) * table_stride,
        kv_head,
        slot_stride,
        first,
        last,
        scale,
        WINDOW,
        SOFT_CAP,
        BLOCK_SIZE,
        HEAD_SIZE,
        D_PAD,
        TILE,
    )
    stride = tl.num_programs(1) * GROUP * HEAD_SIZE  # of a token in the output: H * D
    tl.store(out_ptr + tokens[:, None] * stride + in_token, divide(acc, total), mask=mask)
