"""Exercise 13.2: Cut by outputs, cut by inputs."""

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
        shards: list[Shard] = []
        for name, total in out_sizes.items():
            size = context.tp.divide(total, f"{name or 'output'} features")
            offset = sum(shard.out_size for shard in shards)
            shards.append(Shard(name, total, in_size, context.tp.rank * size, size, 0, in_size, offset))
        super().__init__(shards, bias, context)


class RowParallelLinear(Linear):
    """One matrix, of whose inputs every rank holds a share; the ranks' results are summed."""

    def __init__(self, in_size: int, out_size: int, *, bias: bool, context: LayerContext) -> None:
        tp = context.tp
        size = tp.divide(in_size, "input features")
        super().__init__([Shard("", out_size, in_size, 0, out_size, tp.rank * size, size, 0)], bias, context)

    def forward(self, x: Tensor) -> Tensor:
        """[T, this rank's in_features] -> [T, out_features], the same on every rank. Rank 0 adds the bias."""
        return self.tp.all_reduce(self.method.apply(self, x, self.bias if self.tp.rank == 0 else None))
