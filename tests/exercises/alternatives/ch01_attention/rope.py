"""Exercise 1.4 with complex numbers: turning is multiplying by a number of length 1."""

import torch


def pair_frequencies(head_dim, theta):
    return torch.tensor([theta ** (-2 * i / head_dim) for i in range(head_dim // 2)])


def rotate(x, positions, theta):
    angles = torch.outer(positions.float(), pair_frequencies(x.shape[-1], theta))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * turn
    return torch.cat((turned.real, turned.imag), dim=-1)
