"""Exercise 1.5: Write the causality test."""

from __future__ import annotations

import torch

from minivllm.course.extra.ch01_causality import Attention


def check_causality(attention: Attention) -> None:
    """Raise an AssertionError if a later token changes what an earlier one gets.

    Args:
        attention: (query [T, H, D], key [T, K, D], value [T, K, D], scale) -> [T, H, D]; H is a multiple of K. It
            accepts any T >= 1, and two correct ones may differ in the last digits.
    """
    generator = torch.Generator().manual_seed(0)
    for num_tokens in (2, 3, 9):
        query = torch.randn(num_tokens, 4, 8, generator=generator)
        key, value = torch.randn(2, num_tokens, 2, 8, generator=generator)
        before = attention(query, key, value, 1.0)
        for first in range(1, num_tokens):  # the first token that becomes another
            others = [tensor.clone() for tensor in (query, key, value)]
            for tensor in others:
                tensor[first:] = 3 * torch.randn(tensor[first:].shape, generator=generator)
            after = attention(others[0], others[1], others[2], 1.0)
            assert torch.allclose(before[:first], after[:first], atol=1e-4), (
                f"of {num_tokens} tokens, those from {first} on were exchanged, and an earlier row changed"
            )
