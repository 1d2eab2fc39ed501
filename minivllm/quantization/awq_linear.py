"""Serving AWQ checkpoints: linear layers whose weights are 4-bit numbers, with a scale and a zero point per group.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization". The layout is AutoAWQ's "gemm", the most common one:
qweight [in, out / 8], qzeros [in / G, out / 8], scales [in / G, out]; kernels/awq_dequantize.py draws it. Note that the
inputs come first here, where an ordinary weight is [out, in].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from minivllm import ops
from minivllm.layers.linear_method import Shard
from minivllm.layers.weights import CheckpointTensor

BITS = 4
PACK = 32 // BITS  # numbers in an int32
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class AWQLinear:
    """The `LinearMethod` of AWQ checkpoints."""

    group_size: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "AWQLinear":
        """Read config.json's quantization_config.

        Raises:
            ValueError: a layout that is not read here.
        """
        bits = config.get("bits", config.get("w_bit"))
        group_size = config.get("group_size", config.get("q_group_size"))
        version = str(config.get("version", "gemm")).lower()
        left_out = set(config.get("modules_to_not_convert") or ()) - {"lm_head"}
        for field, value, allowed in (
            ("bits", bits, (BITS,)),
            ("group_size", group_size, GROUP_SIZES),
            ("version", version, ("gemm",)),
            ("zero_point", config.get("zero_point", True), (True,)),
        ):
            if value not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise ValueError(f"quantization_config: {field} must be {choices} for AWQ, got {value!r}.")
        if left_out:
            raise ValueError(
                f"quantization_config: modules_to_not_convert names {min(left_out)!r}; only lm_head can stay as it is."
            )
        return cls(int(cast(int, group_size)))

    def create_weights(
        self,
        layer: nn.Module,
        in_features: int,
        out_features: int,
        params_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Register qweight, qzeros and scales.

        Raises:
            ValueError: the features do not divide into groups, or into words.
        """
        if in_features % self.group_size or out_features % PACK:
            raise ValueError(
                f"quantization: a layer with {in_features} inputs and {out_features} outputs does not divide into "
                f"groups of {self.group_size} inputs and words of {PACK} outputs."
            )
        groups = in_features // self.group_size

        def parameter(rows: int, columns: int, dtype: torch.dtype) -> nn.Parameter:
            return nn.Parameter(torch.zeros(rows, columns, dtype=dtype, device=device), requires_grad=False)

        layer.qweight = parameter(in_features, out_features // PACK, torch.int32)
        layer.qzeros = parameter(groups, out_features // PACK, torch.int32)
        layer.scales = parameter(groups, out_features, params_dtype)

    def slot_shape(self, name: str, shard: Shard) -> tuple[int, ...]:
        """Inputs (or groups of them) x outputs (or words of them) of the whole checkpoint tensor."""
        rows, columns = self._units(name)
        return shard.in_total // rows, shard.out_total // columns

    def load_shard(self, layer: nn.Module, name: str, shard: Shard, tensor: CheckpointTensor) -> None:
        """Copy this rank's inputs and outputs.

        Raises:
            ValueError: a rank's share begins or ends inside a group or a word.
        """
        rows, columns = self._units(name)
        if (shard.in_start | shard.in_size) % rows or (shard.out_start | shard.out_size) % columns:
            raise ValueError(
                f"tensor_parallel_size: a rank's share of {shard.name or 'a layer'} would cut through a group of "
                f"{self.group_size} inputs or a word of {PACK} outputs; use fewer ranks."
            )
        from_rows = slice(shard.in_start // rows, (shard.in_start + shard.in_size) // rows)
        from_columns = slice(shard.out_start // columns, (shard.out_start + shard.out_size) // columns)
        first = shard.offset // columns
        target = getattr(layer, name).data[:, first : first + shard.out_size // columns]
        target.copy_(tensor[from_rows, from_columns])

    def _units(self, name: str) -> tuple[int, int]:
        """How many inputs a row of the parameter stands for, and how many outputs a column."""
        return {"qweight": (1, PACK), "qzeros": (self.group_size, PACK), "scales": (self.group_size, 1)}[name]

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """Unpack and multiply, on a GPU in one kernel."""
        packed = (cast(Tensor, layer.qweight), cast(Tensor, layer.qzeros), cast(Tensor, layer.scales))
        out = ops.awq_linear(x, *packed)
        return out if bias is None else out + bias
