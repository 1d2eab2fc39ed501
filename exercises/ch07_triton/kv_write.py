"""Exercise 7.5: Write keys and values into slots. (implement, about 20 minutes)

Every step begins with this: the new tokens' keys and values go into their slots. One program a
token. It loads the token's slot, then copies K * D keys, and as many values.

    key, value [T, K, D]     slot_mapping [T]     caches [N, B, K, D], seen as N * B slots of K * D numbers

Key and value are pieces of one larger tensor, so a token's numbers lie together, but from one token
to the next it is `key_stride` and `value_stride` numbers, not K * D. The caches have no gaps. K * D
need not be a power of two.

Check: python -m minivllm.course check 7.5     (or: python -m pytest exercises/ch07_triton/kv_write.py)
Stuck: python -m minivllm.course hint 7.5
"""

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
    raise NotImplementedError("exercise 7.5: kv_write_kernel")


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
