"""SwiGLU's gate: silu(gate) * up, where gate and up lie side by side.

    grid (T, n / TILE)      x   [T, 2 n]   | gate ......... | up ........... |
                                                |                |
                            out [T, n]     | silu(gate) * up |                 silu(g) = g * sigmoid(g)

One pass instead of two, and nothing stored in between. Shazeer 2020. Torch twin: `silu_and_mul` in minivllm/ops.py.
"""

import torch

from ._triton import cdiv, check_can_run, tl, triton

TILE = 1024


def silu_and_mul_triton(x: torch.Tensor) -> torch.Tensor:
    """[T, 2 n], contiguous -> [T, n]."""
    check_can_run(x.device.type)
    num_tokens, size = x.shape[0], x.shape[1] // 2
    out = torch.empty((num_tokens, size), dtype=x.dtype, device=x.device)
    _silu_and_mul_kernel[(num_tokens, cdiv(size, TILE))](out, x, size, TILE=TILE)
    return out


@triton.jit
def _silu_and_mul_kernel(out_ptr, x_ptr, size, TILE: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    elements = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = elements < size
    gate = tl.load(x_ptr + token * 2 * size + elements, mask=mask, other=0.0)
    up = tl.load(x_ptr + token * 2 * size + size + elements, mask=mask, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    activated = (wide * tl.sigmoid(wide)).to(gate.dtype).to(tl.float32)  # rounded, as the torch twin does
    tl.store(out_ptr + token * size + elements, (activated * up).to(gate.dtype), mask=mask)
