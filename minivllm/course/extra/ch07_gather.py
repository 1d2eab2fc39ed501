"""A load whose places come from another load: reading through a block table."""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def gather_kernel(cache_ptr, block_table_ptr, out_ptr, seq_len, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr):
    """out[p] = what the cache holds for position p, for every p below seq_len. A slot holds one number here."""
    positions = tl.program_id(0) * TILE + tl.arange(0, TILE)  # [TILE]
    mask = positions < seq_len
    blocks = tl.load(block_table_ptr + positions // BLOCK_SIZE, mask=mask, other=0)
    slots = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
    tl.store(out_ptr + positions, tl.load(cache_ptr + slots, mask=mask), mask=mask)


def gather(cache: Tensor, block_table: Tensor, out: Tensor, tile: int) -> None:
    """cache [N, B], block_table [max_blocks] -> out [seq_len]."""
    seq_len = len(out)
    grid = (triton.cdiv(seq_len, tile),)
    gather_kernel[grid](cache, block_table, out, seq_len, BLOCK_SIZE=cache.shape[1], TILE=tile)
