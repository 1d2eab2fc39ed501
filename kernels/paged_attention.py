"""Decode attention: one new token per request looks at its whole context, read block by block through its table.

    grid (R, K): one program for each request and kv head

    query [R, H, D]    request r: | h0 h1 h2 h3 | h4 h5 h6 h7 |      H = 8 query heads, K = 2 kv heads
                                   \\____ kv 0 ___/\\____ kv 1 ___/
    program (r, 1)                                 M = 4 rows, padded to 16
                                                     |
    block_tables [R, max_blocks]   r: | 7 | 3 | 9 |  v  walks the context, tile by tile (online_softmax.py)
    cache [N, B, K, D]                  |   |   '-> block 9 ...
                                        |   '-----> block 3: B slots, of each only head 1's D numbers
                                        '---------> block 7

PagedAttention (Kwon et al. 2023, section 5.1). All query heads that share a kv head sit in one program, so a key is
read once for all of them: with grouped-query attention (Ainslie et al. 2023) that is what saves the memory traffic,
and decoding is bound by memory traffic. The matrix unit wants at least 16 rows; with fewer heads some of them are idle,
which costs nothing while the memory is the limit. Torch twin: `paged_attention` in minivllm/attention/paged.py.
"""

import torch

from ._triton import check_can_run, next_power_of_2, tl, triton
from .fp8 import as_kernels_see_it
from .online_softmax import attend_tiles, divide

MIN_ROWS = 16  # of a matrix product on a tensor core


def tile_size(d_pad: int, itemsize: int) -> int:
    """Context positions in a tile: as many as make keys of 16 KiB, and at least what a matrix product needs.

    itemsize is the query's: in that type the tile is multiplied, however small the cache's may be.
    """
    return max(16, min(128, 16384 // (d_pad * itemsize)))


def paged_attention_triton(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Attend with one query for each request, which stands at the end of its context.

    Args:
        query: [R, H, D]; a token's H * D elements lie together. Query head h reads kv head h // (H // K).
        key_cache: [N, B, K, D], contiguous, in the query's type, a smaller one or 8-bit floats; it already holds this
            step's keys.
        value_cache: likewise.
        block_tables: [R, max_blocks] int32, rows contiguous.
        seq_lens: [R] int32. A request of length 0 is padding and gets zeros.
        scale: factor on the scores.
        window: how many of the latest tokens a token sees, itself included; None: all.
        soft_cap: scores become soft_cap * tanh(scores / soft_cap), as in Gemma 2; None: they stay.

    Returns:
        [R, H, D], contiguous.
    """
    check_can_run(query.device.type)
    num_requests, num_heads, head_size = query.shape
    _, block_size, num_kv_heads, _ = key_cache.shape
    group = num_heads // num_kv_heads
    d_pad = max(16, next_power_of_2(head_size))
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    _paged_attention_kernel[(num_requests, num_kv_heads)](
        out,
        query,
        as_kernels_see_it(key_cache),
        as_kernels_see_it(value_cache),
        block_tables,
        seq_lens,
        query.stride(0),
        block_tables.stride(0),
        num_kv_heads * head_size,
        scale,
        WINDOW=window or 0,
        SOFT_CAP=soft_cap or 0.0,
        GROUP=group,
        ROWS=max(MIN_ROWS, next_power_of_2(group)),
        BLOCK_SIZE=block_size,
        HEAD_SIZE=head_size,
        D_PAD=d_pad,
        TILE=tile_size(d_pad, query.element_size()),
    )
    return out


@triton.jit
def load_query_heads(
    query_ptr, request, kv_head, query_stride, GROUP, ROWS: tl.constexpr, HEAD_SIZE, D_PAD: tl.constexpr
):
    """The query heads that share a kv head, one row each -> [ROWS, D_PAD], zeros behind the last head and number."""
    rows, dims = tl.arange(0, ROWS), tl.arange(0, D_PAD)
    offsets = (kv_head * GROUP + rows)[:, None] * HEAD_SIZE + dims[None, :]
    mask = (rows < GROUP)[:, None] & (dims < HEAD_SIZE)[None, :]
    return tl.load(query_ptr + request.to(tl.int64) * query_stride + offsets, mask=mask, other=0.0)


@triton.jit
def _paged_attention_kernel(
    out_ptr,  # [R, H, D]
    query_ptr,  # [R, H, D]
    key_ptr,
    value_ptr,
    block_tables_ptr,
    seq_lens_ptr,
    query_stride,
    table_stride,
    slot_stride,
    scale,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
    TILE: tl.constexpr,
):
    request, kv_head = tl.program_id(0), tl.program_id(1)
    seq_len = tl.load(seq_lens_ptr + request)
    query = load_query_heads(query_ptr, request, kv_head, query_stride, GROUP, ROWS, HEAD_SIZE, D_PAD)
    first = tl.maximum(seq_len - WINDOW, 0) if WINDOW > 0 else 0
    _, total, acc = attend_tiles(
        query,
        tl.full([ROWS], 0, tl.int32) + seq_len - 1,  # every row is the last token of the context
        key_ptr,
        value_ptr,
        block_tables_ptr + request.to(tl.int64) * table_stride,
        kv_head,
        slot_stride,
        first,
        seq_len,
        scale,
        WINDOW,
        SOFT_CAP,
        BLOCK_SIZE,
        HEAD_SIZE,
        D_PAD,
        TILE,
    )
    rows, dims = tl.arange(0, ROWS), tl.arange(0, D_PAD)
    heads = request.to(tl.int64) * tl.num_programs(1) * GROUP + kv_head * GROUP + rows
    mask = (rows < GROUP)[:, None] & (dims < HEAD_SIZE)[None, :]
    tl.store(out_ptr + heads[:, None] * HEAD_SIZE + dims[None, :], divide(acc, total), mask=mask)
