"""One number after the other, in a loop: no tile, no mask."""

import triton
import triton.language as tl


@triton.jit
def kv_write_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_mapping_ptr,
    key_stride,
    value_stride,
    ELEMENTS: tl.constexpr,
):
    token = tl.program_id(0)
    first = tl.load(slot_mapping_ptr + token) * ELEMENTS
    for i in range(ELEMENTS):
        tl.store(value_cache_ptr + first + i, tl.load(value_ptr + token * value_stride + i))
        tl.store(key_cache_ptr + first + i, tl.load(key_ptr + token * key_stride + i))


def kv_write(key, value, key_cache, value_cache, slot_mapping):
    elements = key.shape[1] * key.shape[2]
    strides = key.stride(0), value.stride(0)
    kv_write_kernel[(len(key),)](
        key, value, key_cache, value_cache, slot_mapping, *strides, ELEMENTS=elements
    )
