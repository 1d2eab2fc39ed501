"""The inner loop that all attention kernels here share: softmax(q k^T) v over a paged context, one tile at a time.

    context positions   0        TILE      2 TILE     3 TILE
                        |---------|---------|---------|--        for each tile:
    logical block       |  0  |  1  |  2  |  3  |  4  |  5         1. positions -> blocks -> slots (the block table)
    physical block      |  7  |  3  |  9  |  1  |  4  |  2         2. scores  [M, TILE] = q [M, D] x keys^T
                                                                   3. weights [M, TILE] = exp(scores - highest)
    rows (M of them): queries x heads of one kv head               4. acc     [M, D]   += weights x values

The scores of a whole context do not fit into a processor's fast memory, and softmax needs the largest of them. So
each row keeps three running values: the `highest` score seen, the `total` of the weights, and `acc`, the weighted sum
of the values. When a later tile raises `highest`, what was summed so far is scaled down by exp(old - new): the "online
softmax" of Milakov and Gimelshein (2018), used tile by tile as in FlashAttention (Dao et al. 2022, algorithm 1).

A tile has nothing to do with a block: each position looks its block up by itself, so any block size works. Slots that
hold nothing (behind the last position, or before the window) are never read, whatever lies in them.
"""

from ._triton import tl, triton
from .dot import dot
from .fp8 import widen


@triton.jit
def attend_tiles(
    query,  # [M, D_PAD] one row for each (query, head)
    row_positions,  # [M] where each row's token stands in its context
    key_ptr,  # [N, B, K, D] the cache, in the query's type or a smaller one
    value_ptr,  # likewise
    block_table_ptr,  # this request's row of the block tables
    kv_head,
    slot_stride,  # elements from one slot to the next: K * D
    first,  # attend to positions [first, last)
    last,
    scale,
    WINDOW: tl.constexpr,  # a row sees its last WINDOW positions, itself included; 0: all
    SOFT_CAP: tl.constexpr,  # scores become SOFT_CAP * tanh(scores / SOFT_CAP); 0: they stay
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D_PAD: tl.constexpr,  # HEAD_SIZE rounded up to a power of two
    TILE: tl.constexpr,
):
    """-> (highest [M], total [M], acc [M, D_PAD]), float32; the attention output is acc / total."""
    M: tl.constexpr = query.shape[0]
    dims = tl.arange(0, D_PAD)
    highest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, D_PAD], tl.float32)
    for start in range(first, last, TILE):
        # 1. Where do these positions lie? 64 bits: in a large cache offsets pass 2**31.
        positions = start + tl.arange(0, TILE)
        is_there = positions < last
        blocks = tl.load(block_table_ptr + positions // BLOCK_SIZE, mask=is_there, other=0).to(tl.int64)
        slots = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
        offsets = slots[:, None] * slot_stride + kv_head * HEAD_SIZE + dims[None, :]  # [TILE, D_PAD]
        is_element = is_there[:, None] & (dims < HEAD_SIZE)[None, :]

        # 2. Scores, and who may look: nobody into the future, nobody behind the window.
        keys = widen(tl.load(key_ptr + offsets, mask=is_element, other=0.0), query.dtype)
        scores = dot(query, tl.trans(keys)) * scale  # [M, TILE]
        if SOFT_CAP > 0:  # tanh(x) = 2 sigmoid(2 x) - 1
            scores = SOFT_CAP * (2 * tl.sigmoid(2 * scores / SOFT_CAP) - 1)
        sees = is_there[None, :] & (positions[None, :] <= row_positions[:, None])
        if WINDOW > 0:
            sees = sees & (positions[None, :] > row_positions[:, None] - WINDOW)
        scores = tl.where(sees, scores, float("-inf"))

        # 3. Weights against the new highest score; a row that has seen nothing yet must not compute inf - inf.
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        shift = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weights = tl.exp(scores - shift[:, None])
        rescale = tl.exp(highest - shift)

        # 4. Take the tile in.
        values = widen(tl.load(value_ptr + offsets, mask=is_element, other=0.0), query.dtype)
        total = total * rescale + tl.sum(weights, axis=1)
        acc = acc * rescale[:, None] + dot(weights.to(values.dtype), values)
        highest = new_highest
    return highest, total, acc


@triton.jit
def divide(acc, total):
    """acc [M, D_PAD] / total [M]: the output; zeros for a row that saw nothing."""
    return acc / tl.where(total > 0, total, 1.0)[:, None]
