"""Exercise 13.2: Cut by outputs, cut by inputs. (implement, about 30 minutes)

The two layers that a decoder is divided with. `Linear` is written: it stores the weights, loads
them and multiplies. You tell it what this rank holds of each matrix of the checkpoint, as a list of
`Shard`s (minivllm/layers/linear_method.py):

    Shard(name, out_total, in_total, out_start, out_size, in_start, in_size, offset)

The checkpoint's matrix is [out_total, in_total]; this rank holds outputs [out_start, out_start +
out_size) and inputs [in_start, in_start + in_size); its first output lies at `offset` among the
outputs of this layer on this rank.

- MergedColumnParallelLinear: several matrices with the same input, one below the other. Each rank holds its share of the
  outputs of EACH of them, and all inputs.
- RowParallelLinear: one matrix. Each rank holds all outputs, and its share of the inputs. What it computes is one part
  of a sum, so `forward` has a word with the other ranks.

`context.tp` knows rank and size, divides a number with `divide(total, what)`, where `what` is a
word for the error message, and adds up over ranks with `all_reduce`. `Linear.__init__(shards, bias,
context)` does the rest, and keeps `self.tp`, `self.method` and `self.bias` (None where there is
none). Multiply with `self.method.apply(self, x, bias)`; a bias of None is none.

Check: python -m minivllm.course check 13.2     (or: python -m pytest exercises/ch13_parallelism/linear.py)
Stuck: python -m minivllm.course hint 13.2
"""

from collections.abc import Mapping
from torch import Tensor

from minivllm.layers.context import LayerContext
from minivllm.layers.linear import Linear
from minivllm.layers.linear_method import Shard


class MergedColumnParallelLinear(Linear):
    """Several matrices with the same input in one; every rank holds its share of each one's outputs."""

    def __init__(
        self, in_size: int, out_sizes: Mapping[str, int], *, bias: bool, context: LayerContext
    ) -> None:
        """out_sizes: checkpoint name ("": the layer's own) -> number of outputs on all ranks together."""
        raise NotImplementedError("exercise 13.2: MergedColumnParallelLinear.__init__")


class RowParallelLinear(Linear):
    """One matrix, of whose inputs every rank holds a share; the ranks' results are summed."""

    def __init__(self, in_size: int, out_size: int, *, bias: bool, context: LayerContext) -> None:
        raise NotImplementedError("exercise 13.2: RowParallelLinear.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """[T, this rank's in_features] -> [T, out_features], the same on every rank. Rank 0 adds the bias."""
        raise NotImplementedError("exercise 13.2: RowParallelLinear.forward")
