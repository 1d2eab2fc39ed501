"""Copying KV blocks, as copy-on-write needs it: a Triton kernel beside a torch twin of the same signature.

It decides nothing: which block is copied where is the control plane's work (``minivllm.core``).

    grid (P, tiles of a block)      src [P]    7    3        one block is one run of B * K * D elements,
                                               |    |        cut into tiles
                                    dst [P]    9    5
"""

import torch

from ._triton import cdiv, check_can_run, next_power_of_2, tl, triton
from .fp8 import as_kernels_see_it

MAX_TILE = 1024  # elements that one program copies


def copy_blocks_torch(kv_cache: torch.Tensor, src: torch.Tensor, dst: torch.Tensor) -> None:
    """Copy whole blocks inside one cache, in place.

    Args:
        kv_cache: [N, B, K, D] keys or values of one layer, any float type.
        src: [P] block ids to read.
        dst: [P] block ids to write; all different, and none of them in ``src``, so the order does not matter.
    """
    kv_cache[dst] = kv_cache[src]


def copy_blocks_triton(kv_cache: torch.Tensor, src: torch.Tensor, dst: torch.Tensor) -> None:
    """Do what ``copy_blocks_torch`` does, with one program per pair and per tile of a block.

    Args:
        kv_cache: [N, B, K, D], contiguous, any float type.
        src: [P] block ids to read, int32 or int64, on the cache's device.
        dst: [P] block ids to write, likewise.

    Raises:
        RuntimeError: the kernel cannot run here.
        ValueError: the cache is not contiguous.
    """
    check_can_run(kv_cache.device.type)
    if not kv_cache.is_contiguous():
        raise ValueError("kv_cache must be contiguous: the kernel addresses a block as one run of elements")
    if src.numel() == 0:
        return
    block_elements = kv_cache[0].numel()  # B * K * D
    tile = min(MAX_TILE, next_power_of_2(block_elements))
    grid = (src.numel(), cdiv(block_elements, tile))
    _copy_blocks_kernel[grid](as_kernels_see_it(kv_cache), src, dst, block_elements, TILE=tile)


@triton.jit
def _copy_blocks_kernel(cache_ptr, src_ptr, dst_ptr, block_elements, TILE: tl.constexpr):
    pair = tl.program_id(0)
    offsets = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = offsets < block_elements  # the last tile of a block may be partly empty
    # 64 bits: block id * block size passes 2**31 elements in a cache of a few gigabytes.
    src_start = tl.load(src_ptr + pair).to(tl.int64) * block_elements
    dst_start = tl.load(dst_ptr + pair).to(tl.int64) * block_elements
    values = tl.load(cache_ptr + src_start + offsets, mask=mask)
    tl.store(cache_ptr + dst_start + offsets, values, mask=mask)
