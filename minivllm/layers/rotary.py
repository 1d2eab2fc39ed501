"""Rotary position embedding: a table of cosines and sines, made once, read once per step for all layers.

Su et al. 2021. Longer contexts stretch the angles: linearly (Chen et al. 2023), by wavelength as Llama 3.1
does, or by YaRN (Peng et al. 2023, sections 3.2 to 3.4).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minivllm.layers.context import LayerContext
from minivllm.model_config import ROPE_TYPES


class RotaryEmbedding(nn.Module):
    """Angles for every position below max_position, for heads of head_dim, in the layout ops.rotary wants."""

    table: Tensor

    def __init__(
        self,
        head_dim: int,
        max_position: int,
        theta: float,
        scaling: Mapping[str, Any] | None,
        context: LayerContext,
    ) -> None:
        super().__init__()
        frequencies, factor = scaled_frequencies(head_dim, theta, scaling)
        angles = torch.outer(
            torch.arange(max_position, dtype=torch.float32), frequencies
        )  # [max_position, D / 2]
        cos, sin = angles.cos() * factor, angles.sin() * factor
        table = torch.cat((cos, cos, -sin, sin), dim=-1)  # [max_position, 2 D]
        self.register_buffer("table", table.to(context.device, context.params_dtype), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [T] -> cos and (half negated) sin, [T, 1, D] each."""
        cos, sin = self.table[positions].unsqueeze(1).chunk(2, dim=-1)
        return cos, sin


def scaled_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None
) -> tuple[Tensor, float]:
    """Angle per position of each of the D / 2 pairs, float32, and a factor on cos and sin.

    Raises:
        ValueError: an unknown rope_type.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / theta**exponents  # [D / 2]
    kind = "default" if scaling is None else scaling.get("rope_type", "default")
    if scaling is None or kind == "default":
        return frequencies, 1.0
    if kind == "linear":
        return frequencies / scaling["factor"], 1.0
    if kind == "llama3":
        return _llama3(frequencies, scaling), 1.0
    if kind == "yarn":
        return _yarn(frequencies, head_dim, theta, scaling)
    raise ValueError(f"rope_type {kind!r} is not supported, only {', '.join(ROPE_TYPES)} are.")


def _llama3(frequencies: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Keep pairs that turn often within the original context, slow those that hardly turn, blend between."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / scaling["factor"])


def _yarn(
    frequencies: Tensor, head_dim: int, theta: float, scaling: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """Like llama3, but blended over the index of the pair, and with a temperature on the scores."""
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]

    def pair_with(
        turns: float,
    ) -> float:  # the index of the pair that turns so often within the original context
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(scaling.get("beta_fast") or 32), pair_with(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    slow = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return frequencies * (1 - slow + slow / factor), _yarn_factor(factor, scaling)


def _yarn_factor(factor: float, scaling: Mapping[str, Any]) -> float:
    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    mscale, mscale_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return temperature(mscale) / temperature(mscale_all) if mscale and mscale_all else temperature(1.0)
