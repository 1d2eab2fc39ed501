"""RMS normalization, with the addition to the residual stream that comes before it: one pass over memory.

    grid (T * heads)      x       [T, heads, n]   one program takes one row of n numbers: it reads it once, keeps it in
                          weight  [heads, n]      registers, and needs the mean of squares before it can write anything

Separately, addition and norm would read and write the row three times; the arithmetic is free beside that. A norm over
the whole hidden state is the case heads = 1; with heads it is Qwen3's norm of every query and key head. Zhang and
Sennrich 2019. Torch twins: `rms_norm` and `add_rms_norm` in minivllm/ops.py, with the same roundings: the stream to its
own type before it is normalized, and the normalized row before the weight is applied.
"""

import torch

from ._triton import check_can_run, next_power_of_2, tl, triton


def rms_norm_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / rms(x) * weight.

    Args:
        x: [T, n] or [T, heads, n]; a token's numbers lie together, tokens may be any distance apart.
        weight: [n] or [heads, n].
        eps: added to the mean of squares.

    Returns:
        The same shape, contiguous.
    """
    check_can_run(x.device.type)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(out, x, x, x, weight, eps, add=False)
    return out


def add_rms_norm_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """stream = x + residual, both [T, n] -> (stream / rms(stream) * weight, stream)."""
    check_can_run(x.device.type)
    out, stream = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    _launch(out, stream, x, residual, weight, eps, add=True)
    return out, stream


def _launch(out, stream, x, residual, weight, eps: float, *, add: bool) -> None:
    size = x.shape[-1]
    heads = x.shape[1] if x.dim() == 3 else 1
    _rms_norm_kernel[(x.shape[0] * heads,)](
        out,
        stream,
        x,
        residual,
        weight,
        x.stride(0),
        residual.stride(0),
        eps,
        HEADS=heads,
        SIZE=size,
        TILE=next_power_of_2(size),
        ADD=add,
    )


@triton.jit
def _rms_norm_kernel(
    out_ptr,  # [T, HEADS, SIZE]
    stream_ptr,  # likewise; only written when ADD
    x_ptr,
    residual_ptr,
    weight_ptr,  # [HEADS, SIZE]
    x_stride,  # from token to token
    residual_stride,
    eps,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    ADD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token, head = row // HEADS, row % HEADS
    elements = tl.arange(0, TILE)
    mask = elements < SIZE
    x = tl.load(x_ptr + token * x_stride + head * SIZE + elements, mask=mask, other=0.0)
    dtype = x.dtype
    wide = x.to(tl.float32)
    if ADD:
        residual = tl.load(
            residual_ptr + token * residual_stride + head * SIZE + elements, mask=mask, other=0.0
        )
        stream = (wide + residual.to(tl.float32)).to(dtype)
        tl.store(stream_ptr + row * SIZE + elements, stream, mask=mask)
        wide = stream.to(tl.float32)
    mean_square = tl.sum(wide * wide, axis=0) / SIZE
    normed = (wide * tl.rsqrt(mean_square + eps)).to(dtype).to(tl.float32)
    weight = tl.load(weight_ptr + head * SIZE + elements, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * SIZE + elements, (normed * weight).to(dtype), mask=mask)
