"""Matrices that read the same input are one tall matrix; its error is a mean. In logarithms, centering is a shift."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minivllm.quantization.packing import dequantize, quantize_groups

GRID = tuple(step / 20 for step in range(21))


@dataclass(frozen=True)
class SearchResult:
    alpha: float
    scale: Tensor
    error: float
    rtn_error: float


def channel_importance(x, heads=None):
    size = x.abs().mean(0).clamp(min=1e-4)
    if heads is not None:
        repeats, head_dim = heads
        for first in range(0, len(size), repeats * head_dim):
            shared = size[first : first + repeats * head_dim].view(repeats, head_dim).mean(0)
            size[first : first + repeats * head_dim] = shared.repeat(repeats)
    return size


def channel_scale(importance, alpha):
    exponent = alpha * importance.log()
    return (exponent - (exponent.max() + exponent.min()) / 2).exp()


def scaled_error(x, weights, scale, group_size, bits=4):
    tall = torch.cat([weight.float() for weight in weights])
    rounded = dequantize(quantize_groups(tall * scale, group_size, bits))
    return float((x / scale @ rounded.T - x @ tall.T).square().mean())


def search_scale(x, weights, group_size, grid=GRID, heads=None, bits=4):
    importance = channel_importance(x, heads)
    best = None
    rtn_error = scaled_error(x, weights, torch.ones(x.shape[1]), group_size, bits)
    for alpha in grid:
        scale = channel_scale(importance, alpha)
        error = rtn_error if alpha == 0 else scaled_error(x, weights, scale, group_size, bits)
        if best is None or error < best.error:
            best = SearchResult(alpha, scale, error, rtn_error)
    return best
