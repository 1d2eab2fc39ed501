"""The one place that decides which implementation runs. Everything above it asks here and knows no kernel's
name.

It computes nothing that has a better home: attention lives in minivllm.attention, kernels in
minivllm.kernels. Here are the choice, and the plain torch form of the small operations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from minivllm.attention import naive, paged
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache

ATTENTION_BACKENDS = ("auto", "torch", "naive", "triton")


class Attend(Protocol):
    """The signature of attention."""

    def __call__(
        self,
        query: Tensor,
        kv_cache: LayerKVCache,
        metadata: AttentionMetadata,
        *,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """Attend: a flat batch [T, H, D] over one layer's paged cache -> [T, H, D]."""


@dataclass(frozen=True)
class AttentionBackend:
    """The operations on a paged KV cache that belong together."""

    name: str
    attend: Attend
    build_plan: Callable[[AttentionMetadata], object | None]  # once per step; goes into metadata.plan
    write: Callable[[Tensor, Tensor, LayerKVCache, Tensor], None] = paged.reshape_and_cache
    copy_blocks: Callable[[Sequence[LayerKVCache], Tensor], None] = paged.copy_blocks


def _no_plan(metadata: AttentionMetadata) -> None:
    return None


def attention_backend(name: str = "auto") -> AttentionBackend:
    """Choose by name: "torch" (also "auto" today), or "naive" for the slow oracle.

    Raises:
        ValueError: no backend of that name, or one that is not built yet.
    """
    if name in ("auto", "torch"):
        return AttentionBackend("torch", paged.paged_attention, paged.build_plan)
    if name == "naive":
        return AttentionBackend("naive", naive.naive_attention, _no_plan)
    if name == "triton":
        raise ValueError("attention_backend: 'triton' is not built yet; use 'auto' or 'torch'.")
    raise ValueError(f"attention_backend must be one of {', '.join(ATTENTION_BACKENDS)}, got {name!r}.")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square of the last dimension (Zhang and Sennrich 2019), times weight: [..., n].

    The division is in float32 and rounded before the weight is applied, as the checkpoints were trained.
    """
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + D/2) of x [T, heads, D] by its token's angle (Su et al. 2021, section 3.2.2).

    cos and sin are [T, 1, D], and the first half of sin is negated. So with x's halves (a, b) swapped,
    x * cos + swapped * sin = (a cos - b sin, b cos + a sin).
    """
    swapped = x.roll(x.shape[-1] // 2, -1)
    return (x * cos).addcmul_(swapped, sin)


def silu_and_mul(x: Tensor) -> Tensor:
    """SwiGLU's gate (Shazeer 2020): silu of the first half of x [T, 2 n], times the second half -> [T, n]."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)
