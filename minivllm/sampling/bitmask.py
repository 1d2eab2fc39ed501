"""Packed bits to masks."""

from __future__ import annotations

import torch


def unpack_bitmasks(bitmasks: bytes, num_masks: int, vocab_size: int) -> torch.Tensor:
    """n = `num_masks` masks of packed bits, the lowest first, one behind the other -> [n, V] bool."""
    packed = torch.frombuffer(bytearray(bitmasks), dtype=torch.uint8).view(num_masks, -1)  # [n, bytes]
    bits = (
        packed[:, :, None].bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1)
    )  # [n, bytes, 8]
    return bits.flatten(1)[:, :vocab_size].bool()
