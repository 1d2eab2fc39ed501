"""Matrices as the C++ kernel reads them: a `LinearMethod` for linear layers, an embedding and a head of that kind.

    W [out, in]   ->   packed [out / P, in, P]   P outputs side by side, one input after the other; zeros at the end

Nothing is held twice, and nothing is rounded: what a checkpoint holds in bfloat16 stays bfloat16, and is widened on its
way into the multiplication, which is float32. For few tokens reading W is all that counts, and this reads half as
much. One process holds the whole model: ranks have plain weights. The plain twins are UnquantizedLinear,
VocabParallelEmbedding and ParallelLMHead.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from minivllm import ops
from minivllm.layers.context import LayerContext
from minivllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from minivllm.layers.linear_method import Shard
from minivllm.layers.weights import CheckpointTensor, WeightSlot


@dataclass(frozen=True)
class PackedLinear:
    """The `LinearMethod`. Needs `ops.has_cpp()`."""

    stored_dtype: torch.dtype  # float32 or bfloat16

    def create_weights(
        self,
        layer: nn.Module,
        in_features: int,
        out_features: int,
        params_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Register `weight` [out / P, in, P]."""
        assert params_dtype == torch.float32, "the kernel computes in float32"
        layer.weight = packed_parameter(out_features, in_features, self.stored_dtype)

    def slot_shape(self, name: str, shard: Shard) -> tuple[int, ...]:
        """[out, in] of the whole checkpoint matrix."""
        return (shard.out_total, shard.in_total)

    def load_shard(self, layer: nn.Module, name: str, shard: Shard, tensor: CheckpointTensor) -> None:
        """Write the shard's outputs into their places."""
        rows = slice(shard.out_start, shard.out_start + shard.out_size)
        piece = tensor[rows, shard.in_start : shard.in_start + shard.in_size]
        put_rows(cast(Tensor, layer.weight).data, shard.offset, piece)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """One call."""
        return ops.packed_linear(x, cast(Tensor, layer.weight), cast(int, layer.out_features), bias)


class PackedEmbedding(nn.Module):
    """One row per token id."""

    def __init__(self, vocab_size: int, hidden_size: int, context: LayerContext) -> None:
        super().__init__()
        assert isinstance(context.method, PackedLinear)
        self.vocab_size = vocab_size
        self.weight = packed_parameter(vocab_size, hidden_size, context.method.stored_dtype)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids [T] -> [T, hidden]."""
        return ops.packed_rows(input_ids, self.weight)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """The one checkpoint tensor of this layer, [V, hidden]."""
        shape = (self.vocab_size, self.weight.shape[1])
        return {f"{name}.weight": WeightSlot(shape, lambda rows: put_rows(self.weight.data, 0, rows[:]))}


class PackedLMHead(PackedEmbedding):
    """From hidden states to logits, with the embedding's matrix (`tied`) or with one of its own."""

    def __init__(
        self, vocab_size: int, hidden_size: int, context: LayerContext, tied: PackedEmbedding | None
    ) -> None:
        super().__init__(0 if tied else vocab_size, hidden_size, context)
        self.vocab_size, self.is_tied = vocab_size, tied is not None
        if tied is not None:
            self.weight = tied.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """[n, hidden] -> [n, V]."""
        return ops.packed_linear(hidden, self.weight, self.vocab_size)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """As the embedding's; none when it is the embedding's."""
        return {} if self.is_tied else super().slots(name)


def packed_parameter(out_features: int, in_features: int, dtype: torch.dtype) -> nn.Parameter:
    """Memory [out / P, in, P], not touched before it is filled; the outputs that are there for padding are zeros."""
    panel = ops.panel_size()
    packed = torch.empty(-(-out_features // panel), in_features, panel, dtype=dtype)
    if num_padding := packed.shape[0] * panel - out_features:
        packed[-1, :, -num_padding:] = 0
    parameter = nn.Parameter(packed, requires_grad=False)
    parameter.num_padding = num_padding * in_features  # type: ignore[attr-defined]
    return parameter


def num_weights(parameter: Tensor) -> int:
    """How many numbers a parameter holds, without padding."""
    return parameter.numel() - getattr(parameter, "num_padding", 0)


def put_rows(packed: Tensor, first: int, rows: Tensor) -> None:
    """Write rows [n, in] to W[first : first + n]."""
    panel = packed.shape[2]
    if first % panel == 0 and len(rows) % panel == 0:
        target = packed[first // panel : (first + len(rows)) // panel]
        target.copy_(rows.unflatten(0, (-1, panel)).transpose(1, 2))
        return
    places = torch.arange(first, first + len(rows))
    packed[places // panel, :, places % panel] = rows.to(packed.dtype)


def vocabulary_layers(context: LayerContext) -> tuple[type[nn.Module], type[nn.Module]]:
    """The classes of embedding and head: packed where the linear layers are."""
    if isinstance(context.method, PackedLinear):
        return PackedEmbedding, PackedLMHead
    return VocabParallelEmbedding, ParallelLMHead
