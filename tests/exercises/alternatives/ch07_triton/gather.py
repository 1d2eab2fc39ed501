"""Lanes without a position read position 0 again, so only the store has a mask."""

import triton
import triton.language as tl


@triton.jit
def gather_kernel(cache_ptr, block_table_ptr, out_ptr, seq_len, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr):
    lanes = tl.program_id(0) * TILE + tl.arange(0, TILE)
    safe = tl.where(lanes < seq_len, lanes, 0)
    logical = safe // BLOCK_SIZE
    physical = tl.load(block_table_ptr + logical)
    slot = safe + (physical - logical) * BLOCK_SIZE
    tl.store(out_ptr + lanes, tl.load(cache_ptr + slot), mask=lanes < seq_len)


def gather(cache, block_table, out, tile):
    grid = (triton.cdiv(len(out), tile),)
    gather_kernel[grid](cache, block_table, out, len(out), BLOCK_SIZE=cache.shape[1], TILE=tile)
