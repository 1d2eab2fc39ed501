"""8-bit weights, made while an ordinary checkpoint is loaded: int8 or 8-bit floats, one scale for each output.

The scale puts an output's largest weight on the largest number of the type (127; 448 for e4m3), and every weight is
rounded to the nearest number. Activations stay as they are ("weight only"): what gets smaller is memory and the time to
read it. int8 spaces its 255 numbers evenly; e4m3 spaces them like a float, fine near zero and coarse far out.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from minivllm import ops
from minivllm.layers.linear_method import Shard
from minivllm.layers.weights import CheckpointTensor


def quantize_per_channel(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight [out, in] -> (weight [out, in] as dtype, scale [out] float32), scale * weight being the nearest to it.

    dtype is torch.int8 or torch.float8_e4m3fn. A row of zeros gets the scale 1.
    """
    limit = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
    wide = weight.float()
    largest = wide.abs().amax(1)  # [out]
    scale = torch.where(largest > 0, largest / limit, 1.0)
    scaled = (wide / scale[:, None]).clamp(-limit, limit)
    return (scaled if dtype.is_floating_point else scaled.round()).to(dtype), scale


@dataclass(frozen=True)
class WeightOnlyLinear:
    """The `LinearMethod` of 8-bit weights. `weight_scale` is a buffer, not a parameter: no checkpoint holds it."""

    stored_dtype: torch.dtype  # torch.int8 or torch.float8_e4m3fn

    def create_weights(
        self,
        layer: nn.Module,
        in_features: int,
        out_features: int,
        params_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Register `weight` [out, in] and `weight_scale` [out]."""
        weight = torch.empty(out_features, in_features, dtype=self.stored_dtype, device=device)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.register_buffer("weight_scale", torch.ones(out_features, device=device))

    def slot_shape(self, name: str, shard: Shard) -> tuple[int, ...]:
        """[out, in] of the whole checkpoint matrix."""
        return (shard.out_total, shard.in_total)

    def load_shard(self, layer: nn.Module, name: str, shard: Shard, tensor: CheckpointTensor) -> None:
        """Quantize the shard's rows. All their inputs are looked at, so that every rank finds the same scale."""
        rows, scale = quantize_per_channel(
            tensor[shard.out_start : shard.out_start + shard.out_size], self.stored_dtype
        )
        target = slice(shard.offset, shard.offset + shard.out_size)
        cast(Tensor, layer.weight).data[target].copy_(
            rows[:, shard.in_start : shard.in_start + shard.in_size]
        )
        cast(Tensor, layer.weight_scale)[target].copy_(scale)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """Widen and multiply, on a GPU in one kernel."""
        out = ops.weight_only_linear(x, cast(Tensor, layer.weight), cast(Tensor, layer.weight_scale))
        return out if bias is None else out + bias
