"""RoPE (Su et al. 2021, section 3.2.2): pairs of numbers in queries and keys turn, the further the later the token.

A pair is (x[i], x[i + D/2]), as in the checkpoints of Llama and Qwen. The engine looks cosines and sines up in a table,
see minivllm/layers/rotary.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pair_frequencies(head_dim: int, theta: float) -> Tensor:
    """The angle, in radians, by which each pair turns from one position to the next: [D / 2], from fast to slow.

    Pair i turns by theta ** (-2 i / D).
    """
    return theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn the queries or keys of some tokens, whatever their positions are.

    Args:
        x: [T, H, D], D even.
        positions: [T] whole numbers, in any order.
        theta: the base of the frequencies.

    Returns:
        [T, H, D]: pair (a, b) of a token at position p is now (a cos - b sin, a sin + b cos), angle p * frequency.
    """
    angles = positions[:, None].float() * pair_frequencies(x.shape[-1], theta)  # [T, D / 2]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # [T, 1, D / 2]: the same for every head
    a, b = x.chunk(2, dim=-1)  # [T, H, D / 2] each
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)  # [T, H, D]
