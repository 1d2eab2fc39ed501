"""Linear layers that know which part of which checkpoint tensors they hold.

q, k and v lie in one matrix, gate and up in another: one matmul instead of three or two. Splitting over ranks
follows Megatron-LM (Shoeybi et al. 2019, section 3): column parallel layers hold some outputs, row parallel
layers some inputs, and only the latter need a sum over ranks. How the numbers are stored is the
`LinearMethod`'s business.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from minivllm.layers.context import LayerContext
from minivllm.layers.linear_method import Shard
from minivllm.layers.weights import CheckpointTensor, WeightSlot
from minivllm.parallel.plan import share_heads


class Linear(nn.Module):
    """Base of the four below: y = x W^T + b over the features that the shards name."""

    def __init__(self, shards: Sequence[Shard], bias: bool, context: LayerContext) -> None:
        super().__init__()
        self.shards, self.method, self.tp = tuple(shards), context.method, context.tp
        self.in_features = shards[0].in_size
        self.out_features = sum(shard.out_size for shard in shards)
        self.method.create_weights(
            self, self.in_features, self.out_features, context.params_dtype, context.device
        )
        self._stored_by_method = [name for name, _ in self.named_parameters(recurse=False)]
        self.bias = context.empty(self.out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[T, in_features] -> [T, out_features], this rank's part."""
        return self.method.apply(self, x, self.bias)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """One slot per checkpoint tensor; in a packed layer the shards' names stand in place of its own."""
        parent = name.rpartition(".")[0]
        slots = {}
        for shard in self.shards:
            prefix = f"{parent}.{shard.name}" if shard.name else name
            for key in self._stored_by_method:
                load = partial(self.method.load_shard, self, key, shard)
                slots[f"{prefix}.{key}"] = WeightSlot(self.method.slot_shape(key, shard), load)
            if self.bias is not None:
                slots[f"{prefix}.bias"] = WeightSlot((shard.out_total,), partial(self._load_bias, shard))
        return slots

    def _load_bias(self, shard: Shard, tensor: CheckpointTensor) -> None:
        assert self.bias is not None
        piece = tensor[shard.out_start : shard.out_start + shard.out_size]
        self.bias.data[shard.offset : shard.offset + shard.out_size].copy_(piece)


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


class ColumnParallelLinear(MergedColumnParallelLinear):
    """One matrix, of whose outputs every rank holds a share."""

    def __init__(self, in_size: int, out_size: int, *, bias: bool, context: LayerContext) -> None:
        super().__init__(in_size, {"": out_size}, bias=bias, context=context)


class QKVParallelLinear(Linear):
    """q, k and v in one matrix. Query heads are split over ranks; kv heads too, or repeated if too few."""

    def __init__(
        self,
        hidden_size: int,
        head_dim: int,
        num_heads: int,
        num_kv_heads: int,
        *,
        bias: bool,
        context: LayerContext,
    ) -> None:
        tp = context.tp
        share = share_heads(num_heads, num_kv_heads, tp.rank, tp.size)
        self.num_heads, self.num_kv_heads = share.num_heads, share.num_kv_heads
        q, kv = share.num_heads * head_dim, share.num_kv_heads * head_dim
        q_start, kv_start = share.first_head * head_dim, share.first_kv_head * head_dim
        kv_total = num_kv_heads * head_dim
        self.sizes = (q, kv, kv)
        shards = [
            Shard("q_proj", num_heads * head_dim, hidden_size, q_start, q, 0, hidden_size, 0),
            Shard("k_proj", kv_total, hidden_size, kv_start, kv, 0, hidden_size, q),
            Shard("v_proj", kv_total, hidden_size, kv_start, kv, 0, hidden_size, q + kv),
        ]
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
