"""Who holds which part of the model, as a value that layers receive: no global state, no process group for
one.

It is not a transport: the two collectives are callables that a parallel executor supplies.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


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


SINGLE = TensorParallel()
