"""Rotary position embedding, in place.

    grid (T, heads)      one head:  | a: first half | b: second half |     pair i is (a_i, b_i), angle by position and i
                                          |               |
                         becomes    | a cos - b sin | b cos + a sin |

A pair is read into registers before either half is written, so no second tensor is needed: q and k are turned where the
projection left them. Su et al. 2021, section 3.2.2. Torch twin: `rotary` in minivllm/ops.py, which makes a new tensor.
"""

import torch

from ._triton import check_can_run, next_power_of_2, tl, triton


def rotary_triton(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [T, heads, D] in place and return it.

    Args:
        x: a token's heads * D elements lie together, tokens may be any distance apart.
        cos: [T, 1, D], both halves alike.
        sin: [T, 1, D], the first half negated.
    """
    check_can_run(x.device.type)
    num_tokens, num_heads, head_size = x.shape
    half = head_size // 2
    _rotary_kernel[(num_tokens, num_heads)](
        x, cos, sin, x.stride(0), cos.stride(0), sin.stride(0), HALF=half, TILE=next_power_of_2(half)
    )
    return x


@triton.jit
def _rotary_kernel(
    x_ptr, cos_ptr, sin_ptr, x_stride, cos_stride, sin_stride, HALF: tl.constexpr, TILE: tl.constexpr
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pairs = tl.arange(0, TILE)
    mask = pairs < HALF
    first = x_ptr + token * x_stride + head * 2 * HALF + pairs
    second = first + HALF
    a = tl.load(first, mask=mask, other=0.0)
    b = tl.load(second, mask=mask, other=0.0)
    cos = tl.load(cos_ptr + token * cos_stride + pairs, mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * sin_stride + HALF + pairs, mask=mask, other=0.0).to(tl.float32)
    wide_a, wide_b = a.to(tl.float32), b.to(tl.float32)
    tl.store(first, (wide_a * cos - wide_b * sin).to(a.dtype), mask=mask)
    tl.store(second, (wide_b * cos + wide_a * sin).to(b.dtype), mask=mask)
