"""Exercise 1.4: RoPE at any position. (implement, about 20 minutes)

Attention alone cannot tell "cat bites dog" from "dog bites cat": a mean does not know where its
parts stood. RoPE writes the position into queries and keys by turning them. The D numbers of a head
are D / 2 pairs; pair i is (x[i], x[i + D/2]), a point in the plane. At position p it is turned by
the angle p * frequency i, and

    frequency i = theta ** (-2 i / D)        pair 0 turns by 1 radian a position, the later ones ever slower

Turning (a, b) by an angle gives (a cos - b sin, a sin + b cos). Write both functions. The positions
are given: later a model will be run on the tokens of a text from number 40 on, or on tokens of
several texts at once.

Check: python -m minivllm.course check 1.4     (or: python -m pytest exercises/ch01_attention/rope.py)
Stuck: python -m minivllm.course hint 1.4
"""

from __future__ import annotations

import torch
from torch import Tensor


def pair_frequencies(head_dim: int, theta: float) -> Tensor:
    """The angle, in radians, by which each pair turns from one position to the next: [D / 2], from fast to slow.

    Pair i turns by theta ** (-2 i / D).
    """
    raise NotImplementedError("exercise 1.4: pair_frequencies")


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn the queries or keys of some tokens, whatever their positions are.

    Args:
        x: [T, H, D], D even.
        positions: [T] whole numbers, in any order.
        theta: the base of the frequencies.

    Returns:
        [T, H, D]: pair (a, b) of a token at position p is now (a cos - b sin, a sin + b cos), angle p * frequency.
    """
    raise NotImplementedError("exercise 1.4: rotate")
