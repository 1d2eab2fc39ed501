"""The first kernel: two vectors, cut among programs, and a mask for the rest at the end."""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, TILE: tl.constexpr):
    """out[i] = x[i] + y[i] for every i below n. Program number p does the places p * TILE to p * TILE + TILE - 1."""
    places = tl.program_id(0) * TILE + tl.arange(0, TILE)  # [TILE]
    mask = places < n
    x = tl.load(x_ptr + places, mask=mask)
    y = tl.load(y_ptr + places, mask=mask)
    tl.store(out_ptr + places, x + y, mask=mask)


def add(x: Tensor, y: Tensor, out: Tensor, tile: int) -> None:
    """out [n] = x [n] + y [n]. `tile` is a power of two."""
    add_kernel[(triton.cdiv(len(x), tile),)](x, y, out, len(x), TILE=tile)
