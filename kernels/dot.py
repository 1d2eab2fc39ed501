"""Matrix product of two tiles, for every kernel that needs one."""

from ._triton import HAS_TRITON, INTERPRETED, tl, triton

WIDEN = tl.constexpr(INTERPRETED) if HAS_TRITON else INTERPRETED


@triton.jit
def dot(a, b):
    """a [m, k] x b [k, n], of one float type, summed in float32 -> [m, n] float32.

    "ieee": float32 stays float32 instead of being rounded to tf32. Triton's interpreter cannot multiply bfloat16
    (it keeps its bits in integers), so there both tiles are widened first; the products are the same.
    """
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")
