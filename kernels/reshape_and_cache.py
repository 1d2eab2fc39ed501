"""Writing keys and values into their slots of the paged cache.

One program per token: it copies the token's K * D keys, and as many values, to where `slot_mapping` says.

    key, value [T, K, D]     token 0   token 1   token 2          slot = block_id * B + offset
                                |         |         |
    slot_mapping [T]           45        46        12
                                |         '--,      '------,
    cache [N, B, K, D]     ... |44|45|46|47| ...     ... |12|13| ...     seen as N * B slots

Padding tokens carry slot 0, which lies in the null block: what they write is never read. Torch twin:
`reshape_and_cache` in minivllm/attention/paged.py. vLLM's kernel of the same name does the same.
"""

import torch

from ._triton import check_can_run, next_power_of_2, tl, triton
from .fp8 import as_kernels_see_it, narrow


def reshape_and_cache_triton(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """Write key and value [T, K, D] into key_cache and value_cache [N, B, K, D], in place.

    Args:
        key: a token's K * D elements lie together; tokens may be any distance apart (it is a piece of q, k, v).
        value: likewise.
        key_cache: contiguous; one of another type than the keys (8-bit floats included) takes them rounded, saturated.
        value_cache: likewise.
        slot_mapping: [T] int64.
    """
    check_can_run(key.device.type)
    num_tokens, num_kv_heads, head_size = key.shape
    elements = num_kv_heads * head_size
    _reshape_and_cache_kernel[(num_tokens,)](
        key,
        value,
        as_kernels_see_it(key_cache),
        as_kernels_see_it(value_cache),
        slot_mapping,
        key.stride(0),
        value.stride(0),
        ELEMENTS=elements,
        TILE=next_power_of_2(elements),
    )


@triton.jit
def _reshape_and_cache_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_mapping_ptr,
    key_stride,
    value_stride,
    ELEMENTS: tl.constexpr,
    TILE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token)
    elements = tl.arange(0, TILE)
    mask = elements < ELEMENTS
    key = tl.load(key_ptr + token * key_stride + elements, mask=mask)
    value = tl.load(value_ptr + token * value_stride + elements, mask=mask)
    cache_dtype = key_cache_ptr.dtype.element_ty
    tl.store(key_cache_ptr + slot * ELEMENTS + elements, narrow(key, cache_dtype), mask=mask)
    tl.store(value_cache_ptr + slot * ELEMENTS + elements, narrow(value, cache_dtype), mask=mask)
