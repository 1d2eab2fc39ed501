"""Where checkpoint tensors go. A layer lists its slots by checkpoint name; the loader matches and fills them.

One parameter of ours may be filled by several tensors of the checkpoint (q, k and v lie in one matrix), and one rank
may want only a piece of a tensor. Both are hidden here behind `WeightSlot.load`.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class WeightSlot(NamedTuple):
    """The place of one checkpoint tensor: its full shape, and how to put it in (which copies, casts and slices)."""

    shape: tuple[int, ...]
    load: Callable[[Tensor], object]


def plain_slots(name: str, layer: nn.Module) -> dict[str, WeightSlot]:
    """Slots of a layer whose own parameters are the checkpoint's, whole: for norms."""
    return {
        f"{name}.{key}": WeightSlot(tuple(parameter.shape), parameter.data.copy_)
        for key, parameter in layer.named_parameters(recurse=False)
    }
