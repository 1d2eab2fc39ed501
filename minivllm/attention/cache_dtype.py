"""Keys and values may lie in the cache in a smaller type than the model computes in, such as 8-bit floats.

Writing saturates: a number beyond the type's range becomes its largest, never infinity or NaN, which would spoil every
later token. Reading is exact. What only moves data (copying, swapping) moves bytes and rounds nothing.
Their twins in the kernels: kernels/fp8.py.
"""

import torch
from torch import Tensor


def to_cache(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Any float tensor in the type of a cache, rounded to the nearest and saturated; NaN stays NaN."""
    if x.dtype == dtype:
        return x
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def from_cache(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What was read from a cache, in the type to compute in."""
    return x if x.dtype == dtype else x.to(dtype)


def movable(cache: Tensor) -> Tensor:
    """The same memory as a type that every device can index: 8-bit floats as bytes, all others as they are."""
    return cache.view(torch.uint8) if cache.dtype.itemsize == 1 else cache
