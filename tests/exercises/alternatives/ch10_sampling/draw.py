"""Walk along the ruler and take off one share after the other."""

from fractions import Fraction

import torch


def draw(probs, random):
    return torch.tensor([walk(row, u) for row, u in zip(probs.tolist(), random.tolist(), strict=True)])


def walk(row, u):
    """The first token behind whose end `u` does not lie."""
    if len(row) <= 64:
        row, u = [Fraction(share) for share in row], Fraction(u)
    left = u * sum(row)
    for token, share in enumerate(row):
        if left < share:
            return token
        left -= share
    return max(token for token, share in enumerate(row) if share)
