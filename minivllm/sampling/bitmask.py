"""Packed bits to masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def unpack_bitmasks(bitmasks: Sequence[bytes], vocab_size: int) -> torch.Tensor:
    """Packed bits, the lowest first -> [n, V] bool."""
    packed = torch.frombuffer(bytearray(b"".join(bitmasks)), dtype=torch.uint8).view(
        len(bitmasks), -1
    )  # [n, bytes]
    bits = (
        packed[:, :, None].bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1)
    )  # [n, bytes, 8]
    return bits.flatten(1)[:, :vocab_size].bool()
