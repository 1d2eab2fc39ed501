"""Exercise 11.4: Pack and unpack."""

import torch
from torch import Tensor


BITS = 4


PACK = 32 // BITS  # numbers in a word of 32 bits


ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word, from the lowest, holds this one of its eight outputs


def pack(numbers: Tensor) -> Tensor:
    """[rows, n] of 0 to 15, n a multiple of 8 -> words [rows, n / 8] int32."""
    words = numbers.long().unflatten(-1, (-1, PACK))[..., list(ORDER)]  # [rows, n / 8, nibble]
    packed = (words << torch.arange(0, 32, BITS, device=numbers.device)).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()  # the sign bit of the highest nibble


def unpack(words: Tensor) -> Tensor:
    """Words [rows, n / 8] int32 -> [rows, n] int32 of 0 to 15: what `pack` was given."""
    shifts = torch.arange(0, 32, BITS, dtype=torch.int32, device=words.device)
    nibbles = (words[..., None] >> shifts) & (2**BITS - 1)  # [rows, n / 8, nibble]
    return nibbles[..., [ORDER.index(j) for j in range(PACK)]].flatten(-2)
