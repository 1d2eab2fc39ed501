"""Where checkpoint tensors go: each layer lists its slots by checkpoint name, the loader matches and fills
them.

One parameter of ours may be filled by several tensors of the checkpoint (q, k and v lie in one matrix), and
one rank may want only a piece of a tensor. Both are hidden behind `WeightSlot.load`.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class WeightSlot(NamedTuple):
    """The place of one checkpoint tensor."""

    shape: tuple[int, ...]  # of the whole tensor in the checkpoint
    load: Callable[[Tensor], object]  # puts the whole tensor where it belongs: copies, casts, slices
