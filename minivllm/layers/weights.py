"""Where checkpoint tensors go: each layer lists its slots by checkpoint name, the loader matches and fills
them.

One parameter of ours may be filled by several tensors of the checkpoint (q, k and v lie in one matrix), and
one rank may want only a piece of a tensor. Both are hidden behind `WeightSlot.load`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class CheckpointTensor(Protocol):
    """A tensor in a file. Only what is sliced is read: `t[a:b, c:d]` a piece, `t[:]` all. A Tensor is one, too."""

    @property
    def shape(self) -> Any:
        """Sizes of the whole tensor."""

    def __getitem__(self, index: Any) -> Tensor: ...


class WeightSlot(NamedTuple):
    """The place of one checkpoint tensor."""

    shape: tuple[int, ...]  # of the whole tensor in the checkpoint
    load: Callable[
        [CheckpointTensor], object
    ]  # puts this rank's piece where it belongs: slices, casts, copies


def whole(target: Tensor) -> WeightSlot:
    """The slot of a tensor that every rank holds entirely."""
    return WeightSlot(tuple(target.shape), lambda tensor: target.copy_(tensor[:]))
