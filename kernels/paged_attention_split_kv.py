"""Decode attention for few requests with long contexts: several programs share a context, a second kernel merges.

One program per (request, kv head), as in paged_attention.py, leaves most of a GPU idle when there are few requests, and
the longest context decides how long everybody waits. So a context is cut into pieces:

    grid (R, K, S)     context of request r:  |---- piece 0 ----|---- piece 1 ----|---- piece 2 --|     S = 3
                                                      |                 |                |
    each program leaves                     (highest, total, acc)  (highest, total, acc)    ...        for its heads
                                                      '--------.        |        .-------'
    grid (R, H): reduce                                        out of (r, h) [D]

The merge is exact, not an approximation: a piece's sums were taken relative to its own highest score m_s, and
exp(m_s - max m) puts all of them on one scale, which is the rule by which online_softmax.py goes from tile to tile.
(Flash-Decoding, Dao et al. 2023. The same idea: vLLM's earlier paged_attention_v2, its unified kernel's segments.)
Both kernels read seq_lens on the device, and the number of pieces does not depend on it: a CUDA graph stays valid.
"""

import torch

from ._triton import cdiv, check_can_run, next_power_of_2, tl, triton
from .fp8 import as_kernels_see_it
from .online_softmax import attend_tiles
from .paged_attention import MIN_ROWS, load_query_heads, tile_size

MAX_SPLITS = 32
MIN_TOKENS_PER_SPLIT = 256  # less work than this is not worth a program of its own


def choose_num_splits(num_programs: int, max_seq_len: int, num_processors: int) -> int:
    """How many pieces give a GPU's processors two programs each: a power of two up to MAX_SPLITS; 1 = do not cut."""
    wanted = cdiv(2 * num_processors, num_programs)
    allowed = max(1, max_seq_len // MIN_TOKENS_PER_SPLIT)
    return min(MAX_SPLITS, next_power_of_2(wanted), 1 << (allowed.bit_length() - 1))


def paged_attention_split_kv_triton(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    num_splits: int,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    """Do what `paged_attention_triton` does, with num_splits (a power of two) programs for each context."""
    check_can_run(query.device.type)
    num_requests, num_heads, head_size = query.shape
    _, block_size, num_kv_heads, _ = key_cache.shape
    group = num_heads // num_kv_heads
    d_pad = max(16, next_power_of_2(head_size))
    pieces = (num_requests, num_heads, num_splits)
    acc = torch.empty((*pieces, d_pad), dtype=torch.float32, device=query.device)
    highest, total = torch.empty((2, *pieces), dtype=torch.float32, device=query.device)
    _split_kernel[(num_requests, num_kv_heads, num_splits)](
        acc,
        highest,
        total,
        query,
        as_kernels_see_it(key_cache),
        as_kernels_see_it(value_cache),
        block_tables,
        seq_lens,
        query.stride(0),
        block_tables.stride(0),
        num_kv_heads * head_size,
        scale,
        SPLITS=num_splits,
        WINDOW=window or 0,
        SOFT_CAP=soft_cap or 0.0,
        GROUP=group,
        ROWS=max(MIN_ROWS, next_power_of_2(group)),
        BLOCK_SIZE=block_size,
        HEAD_SIZE=head_size,
        D_PAD=d_pad,
        TILE=tile_size(d_pad, query.element_size()),
    )
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    _reduce_kernel[(num_requests * num_heads,)](
        out, acc, highest, total, SPLITS=num_splits, HEAD_SIZE=head_size, D_PAD=d_pad
    )
    return out


@triton.jit
def _split_kernel(
    acc_ptr,  # [R, H, SPLITS, D_PAD] float32
    highest_ptr,  # [R, H, SPLITS] float32
    total_ptr,  # likewise
    query_ptr,
    key_ptr,
    value_ptr,
    block_tables_ptr,
    seq_lens_ptr,
    query_stride,
    table_stride,
    slot_stride,
    scale,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
    TILE: tl.constexpr,
):
    request, kv_head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    seq_len = tl.load(seq_lens_ptr + request)
    begin = tl.maximum(seq_len - WINDOW, 0) if WINDOW > 0 else 0
    share = (
        tl.cdiv(tl.cdiv(seq_len - begin, SPLITS), TILE) * TILE
    )  # whole tiles: the last pieces may be empty
    first = begin + piece * share
    query = load_query_heads(query_ptr, request, kv_head, query_stride, GROUP, ROWS, HEAD_SIZE, D_PAD)
    highest, total, acc = attend_tiles(
        query,
        tl.full([ROWS], 0, tl.int32) + seq_len - 1,
        key_ptr,
        value_ptr,
        block_tables_ptr + request.to(tl.int64) * table_stride,
        kv_head,
        slot_stride,
        first,
        tl.minimum(first + share, seq_len),
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
    places = heads * SPLITS + piece  # [ROWS]
    is_head = rows < GROUP
    tl.store(highest_ptr + places, highest, mask=is_head)
    tl.store(total_ptr + places, total, mask=is_head)
    tl.store(acc_ptr + places[:, None] * D_PAD + dims[None, :], acc, mask=is_head[:, None])


@triton.jit
def _reduce_kernel(
    out_ptr,  # [R, H, D]
    acc_ptr,
    highest_ptr,
    total_ptr,
    SPLITS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)  # one of R * H
    pieces, dims = tl.arange(0, SPLITS), tl.arange(0, D_PAD)
    highest = tl.load(highest_ptr + head * SPLITS + pieces)
    total = tl.load(total_ptr + head * SPLITS + pieces)
    acc = tl.load(acc_ptr + (head * SPLITS + pieces)[:, None] * D_PAD + dims[None, :])  # [SPLITS, D_PAD]
    peak = tl.max(highest, axis=0)
    factor = tl.exp(highest - tl.where(peak == float("-inf"), 0.0, peak))  # an empty piece: exp(-inf) = 0
    whole = tl.sum(total * factor, axis=0)
    out = tl.sum(acc * factor[:, None], axis=0) / tl.where(whole > 0, whole, 1.0)
    tl.store(out_ptr + head * HEAD_SIZE + dims, out, mask=dims < HEAD_SIZE)
