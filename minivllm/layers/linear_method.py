"""How a linear layer stores its weights: the seam where quantization and LoRA come in.

A layer says *what* is stored where, in units of features: one `Shard` for each checkpoint tensor packed into
it. A `LinearMethod` says *how*: which parameters exist, how x is multiplied with them, and what a range of
features means in their storage.
"""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivllm.layers.weights import CheckpointTensor


@dataclass(frozen=True)
class Shard:
    """One checkpoint tensor, and the piece of it that this rank holds. All numbers count features."""

    name: str  # as the checkpoint says: "q_proj"
    out_total: int  # the whole tensor is [out_total, in_total]
    in_total: int
    out_start: int  # this rank holds outputs [out_start, out_start + out_size)
    out_size: int
    in_start: int  # and inputs [in_start, in_start + in_size)
    in_size: int
    offset: int  # where its first output lies in the layer's own outputs


class LinearMethod(Protocol):
    """How a linear layer stores its weights and multiplies with them."""

    def create_weights(
        self,
        layer: nn.Module,
        in_features: int,
        out_features: int,
        params_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Register on the layer the parameters for y = x W^T, with W [out_features, in_features]."""

    def slot_shape(self, name: str, shard: Shard) -> tuple[int, ...]:
        """Shape of the checkpoint tensor `<shard.name>.<name>` for the parameter called name."""

    def load_shard(self, layer: nn.Module, name: str, shard: Shard, tensor: CheckpointTensor) -> None:
        """Copy this rank's piece of a checkpoint tensor into the layer's parameter called name.

        The tensor still lies in its file: slice it to read the piece (`tensor[:]` reads all of it).
        """

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """[T, in_features] -> [T, out_features]."""


class UnquantizedLinear:
    """Weights as they are: one matrix `weight` [out, in]."""

    def create_weights(
        self,
        layer: nn.Module,
        in_features: int,
        out_features: int,
        params_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Register `weight`."""
        weight = torch.empty(out_features, in_features, dtype=params_dtype, device=device)
        layer.weight = nn.Parameter(weight, requires_grad=False)

    def slot_shape(self, name: str, shard: Shard) -> tuple[int, ...]:
        """[out, in] of the whole checkpoint matrix."""
        return (shard.out_total, shard.in_total)

    def load_shard(self, layer: nn.Module, name: str, shard: Shard, tensor: CheckpointTensor) -> None:
        """Copy rows and columns of the shard."""
        rows = slice(shard.out_start, shard.out_start + shard.out_size)
        piece = tensor[rows, shard.in_start : shard.in_start + shard.in_size]
        getattr(layer, name).data[shard.offset : shard.offset + shard.out_size].copy_(piece)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """One matmul."""
        return F.linear(x, cast(Tensor, layer.weight), bias)
