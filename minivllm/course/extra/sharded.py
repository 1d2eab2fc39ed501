"""A layer over several ranks, each with its own piece of the same checkpoint; for graders and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from minivllm.layers.context import LayerContext
from minivllm.parallel.threads import Ranks


def build(ranks: Ranks, make: Callable[[LayerContext], Any], tensors: Mapping[str, Tensor]) -> list[Any]:
    """One layer for each rank, made by `make(context)` and filled from `tensors`, by checkpoint name.

    The layer stands at "block.layer": a packed layer's tensors are "block.q_proj.weight", others "block.layer.weight".
    """
    layers = []
    for tp in ranks.tp:
        layer = make(LayerContext(tp=tp))
        for name, slot in layer.slots("block.layer").items():
            if tuple(tensors[name].shape) != tuple(slot.shape):
                raise ValueError(
                    f"{name} has shape {list(tensors[name].shape)}, the layer says {list(slot.shape)}"
                )
            slot.load(tensors[name])
        layers.append(layer)
    return layers


def numbers(seed: int, *shape: int) -> Tensor:
    """Small whole numbers as floats: their sums and products are exact, in whatever order they are added up."""
    drawn = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.float()


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in shape and in every number."""
    return one.shape == other.shape and torch.equal(one, other)
