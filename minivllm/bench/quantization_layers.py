"""Rounding without an engine: each layer's error on unseen text, and how few bits a model survives.

What this is not: a format. Numbers of 2 or 3 bits are only rounded to here, and kept as ordinary floats.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minivllm.model_config import ModelConfig
from minivllm.quantization.awq import load
from minivllm.quantization.awq_model import LinearGroup, apply_scale, linear_groups, record_inputs
from minivllm.quantization.awq_search import GRID, NEAREST_ONLY, scaled_error, search_scale
from minivllm.quantization.packing import dequantize, quantize_groups
from minivllm.quantization.weight_only import quantize_per_channel


def layer_errors(
    folder: Path, calibration: Sequence[Tensor], unseen: Sequence[Tensor], group_size: int
) -> list[dict[str, Any]]:
    """For each group of matrices the mean squared error of its outputs, as a share of the outputs' mean square."""
    network = load(ModelConfig.from_pretrained(folder))
    groups = [group for layer in linear_groups(network) for group in layer]
    seen = record_inputs(network, groups, calibration)
    new = record_inputs(network, groups, unseen)
    with torch.inference_mode():
        return [_row(group, seen[group.name], new[group.name], group_size) for group in groups]


def _row(group: LinearGroup, seen: Tensor, new: Tensor, group_size: int) -> dict[str, Any]:
    weights = [linear.weight.data for linear in group.linears.values()]
    found = search_scale(seen, weights, group_size, heads=group.heads)
    outputs = torch.cat([new @ weight.T for weight in weights], 1)
    size = float(outputs.square().mean())
    ones = torch.ones_like(found.scale)
    return {
        "name": group.name,
        "alpha": found.alpha,
        "int8": eight_bit_error(new, weights, torch.int8) / size,
        "fp8": eight_bit_error(new, weights, torch.float8_e4m3fn) / size,
        "int4_nearest": scaled_error(new, weights, ones, group_size) / size,
        "int4_awq": scaled_error(new, weights, found.scale, group_size) / size,
    }


def eight_bit_error(x: Tensor, weights: Sequence[Tensor], dtype: torch.dtype) -> float:
    """Mean squared error over all outputs of matrices that are stored in 8 bits."""
    errors = []
    for weight in weights:
        q, scale = quantize_per_channel(weight, dtype)
        errors.append(x @ (q.float() * scale[:, None] - weight).T)
    return float(torch.cat(errors, 1).square().mean())


def round_model(
    folder: Path, out: Path, calibration: Sequence[Tensor], group_size: int, bits: int, search: bool
) -> str:
    """Write the model with every matrix of its layers rounded to `bits` bits, as ordinary weights; OUT's name."""
    network = load(ModelConfig.from_pretrained(folder))
    layers = linear_groups(network)
    inputs = record_inputs(network, [group for groups in layers for group in groups], calibration)
    grid = GRID if search else NEAREST_ONLY
    with torch.inference_mode():
        for groups in layers:
            found = [_search(group, inputs[group.name], group_size, grid, bits) for group in groups]
            for group, scale in zip(groups, found, strict=True):
                apply_scale(group, scale)
            for group in groups:
                for linear in group.linears.values():
                    linear.weight.data = dequantize(quantize_groups(linear.weight.data, group_size, bits))
    network.save_pretrained(out)
    for file in folder.glob("token*.json"):
        shutil.copy(file, out)
    return str(out)


def _search(group: LinearGroup, x: Tensor, group_size: int, grid: Sequence[float], bits: int) -> Tensor:
    weights = [linear.weight.data for linear in group.linears.values()]
    return search_scale(x, weights, group_size, grid, group.heads, bits).scale
