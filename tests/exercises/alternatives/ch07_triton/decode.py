"""Two walks: the first finds the highest score, the second sums. Slot by slot, without a tile of slots."""

import triton
import triton.language as tl


@triton.jit
def attend_blocks(
    query, key_ptr, value_ptr, block_table_ptr, first, last, seq_len, kv_head, num_kv_heads, scale,
    BLOCK_SIZE: tl.constexpr, B_PAD: tl.constexpr, HEAD_SIZE: tl.constexpr, D_PAD: tl.constexpr,
):  # fmt: skip
    dims = tl.arange(0, D_PAD)
    end = tl.minimum(last * BLOCK_SIZE, seq_len)
    highest = float("-inf")
    for position in range(first * BLOCK_SIZE, end):
        slot = tl.load(block_table_ptr + position // BLOCK_SIZE) * BLOCK_SIZE + position % BLOCK_SIZE
        where = (slot * num_kv_heads + kv_head) * HEAD_SIZE + dims
        key = tl.load(key_ptr + where, mask=dims < HEAD_SIZE, other=0.0)
        highest = tl.maximum(highest, tl.sum(query * key, axis=0) * scale)
    total = 0.0
    acc = tl.zeros([D_PAD], tl.float32)
    for position in range(first * BLOCK_SIZE, end):
        slot = tl.load(block_table_ptr + position // BLOCK_SIZE) * BLOCK_SIZE + position % BLOCK_SIZE
        where = (slot * num_kv_heads + kv_head) * HEAD_SIZE + dims
        key = tl.load(key_ptr + where, mask=dims < HEAD_SIZE, other=0.0)
        weight = tl.exp(tl.sum(query * key, axis=0) * scale - highest)
        total += weight
        acc += weight * tl.load(value_ptr + where, mask=dims < HEAD_SIZE, other=0.0)
    return highest, total, acc


@triton.jit
def decode_kernel(
    out_ptr, query_ptr, key_ptr, value_ptr, block_tables_ptr, seq_lens_ptr, table_stride, num_heads, num_kv_heads,
    scale, GROUP: tl.constexpr, BLOCK_SIZE: tl.constexpr, HEAD_SIZE: tl.constexpr, D_PAD: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0) // num_heads
    head = tl.program_id(0) % num_heads
    dims = tl.arange(0, D_PAD)
    own = tl.program_id(0) * HEAD_SIZE + dims
    query = tl.load(query_ptr + own, mask=dims < HEAD_SIZE, other=0.0)
    seq_len = tl.load(seq_lens_ptr + request)
    _, total, acc = attend_blocks(
        query, key_ptr, value_ptr, block_tables_ptr + request * table_stride, 0, tl.cdiv(seq_len, BLOCK_SIZE), seq_len,
        head // GROUP, num_kv_heads, scale, BLOCK_SIZE, 1, HEAD_SIZE, D_PAD,
    )  # fmt: skip
    tl.store(out_ptr + own, acc / total, mask=dims < HEAD_SIZE)


def decode(out, query, key_cache, value_cache, block_tables, seq_lens, scale):
    heads, head_size = query.shape[1:]
    block_size, kv_heads = key_cache.shape[1:3]
    caches = key_cache, value_cache, block_tables, seq_lens
    sizes = {"GROUP": heads // kv_heads, "BLOCK_SIZE": block_size, "HEAD_SIZE": head_size}
    sizes["D_PAD"] = triton.next_power_of_2(head_size)
    grid = (query.shape[0] * heads,)
    decode_kernel[grid](out, query, *caches, block_tables.stride(0), heads, kv_heads, scale, **sizes)
