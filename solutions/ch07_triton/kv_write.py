"""Exercise 7.5: Write keys and values into slots."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def kv_write_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_mapping_ptr,
    key_stride,  # numbers from one token to the next
    value_stride,
    ELEMENTS: tl.constexpr,  # K * D, the numbers of a token
    TILE: tl.constexpr,  # ELEMENTS rounded up to a power of two
):
    """One program a token: copy its ELEMENTS keys, and as many values, into its slot of either cache."""
    token = tl.program_id(0)
    slot = tl.load(slot_mapping_ptr + token)  # 64 bits: slot * ELEMENTS may be larger than 2**31
    elements = tl.arange(0, TILE)
    mask = elements < ELEMENTS
    key = tl.load(key_ptr + token * key_stride + elements, mask=mask)
    value = tl.load(value_ptr + token * value_stride + elements, mask=mask)
    tl.store(key_cache_ptr + slot * ELEMENTS + elements, key, mask=mask)
    tl.store(value_cache_ptr + slot * ELEMENTS + elements, value, mask=mask)


def kv_write(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None:
    """key, value [T, K, D] into key_cache, value_cache [N, B, K, D], where slot_mapping [T] says.

    A token's numbers lie together; tokens may lie any distance apart, as key and value are pieces of one tensor.
    """
    elements = key.shape[1] * key.shape[2]
    kv_write_kernel[(len(key),)](
        key,
        value,
        key_cache,
        value_cache,
        slot_mapping,
        key.stride(0),
        value.stride(0),
        ELEMENTS=elements,
        TILE=triton.next_power_of_2(elements),
    )
