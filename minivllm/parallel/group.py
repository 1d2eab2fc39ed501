"""Who holds which part of the model, as values that layers receive: no global state, no process group for
one.

It is not a transport: how tensors travel are callables that a parallel executor supplies (parallel/distributed.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from minivllm.parallel.plan import layer_ranges


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class TensorParallel:
    """One of `size` ranks that split every layer (Megatron-LM, Shoeybi et al. 2019, section 3)."""

    rank: int = 0
    size: int = 1
    all_reduce: Callable[[Tensor], Tensor] = _same  # sum over ranks, same shape
    all_gather: Callable[[Tensor], Tensor] = _same  # concatenate the ranks' tensors along the last dimension

    def divide(self, total: int, what: str) -> int:
        """The share of one rank.

        Raises:
            ValueError: `total` does not divide by the number of ranks.
        """
        if total % self.size:
            raise ValueError(f"tensor_parallel_size: {what} ({total}) does not divide by {self.size}.")
        return total // self.size


@dataclass(frozen=True)
class PipelineParallel:
    """One of `size` stages, each of which holds a contiguous range of layers (GPipe, Huang et al. 2019)."""

    rank: int = 0
    size: int = 1
    receive: Callable[[Tensor], Tensor] = field(default=_same)  # fill a tensor with the previous stage's
    send: Callable[[Tensor], object] = field(default=_same)  # to the next stage

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        return self.rank == self.size - 1

    def layers(self, num_layers: int) -> range:
        """The layers of this stage.

        Raises:
            ValueError: there are fewer layers than stages.
        """
        return layer_ranges(num_layers, self.size)[self.rank]


SINGLE = TensorParallel()
ONE_STAGE = PipelineParallel()
