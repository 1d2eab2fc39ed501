"""AWQ on a whole model: which matrices share an input, what produces that input, and what they read in practice.

    input_layernorm -> q, k, v         v_proj -> (attention) -> o         four groups in each decoder layer; the scale
    post_attention_layernorm -> gate, up      up_proj -> (gate) -> down   of a group is divided out of what stands left

Attention only averages values, and the gate only multiplies: a factor on one channel of v_proj's or up_proj's output
arrives unchanged at o_proj or down_proj. The model is transformers' own (`LlamaForCausalLM` and its relatives).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from minivllm.quantization.awq_search import GRID, SearchResult, search_scale
from minivllm.quantization.packing import pack_checkpoint, quantize_groups

MAX_ROWS = 1024  # of the calibration data that are kept for each group


@dataclass(frozen=True)
class LinearGroup:
    """Matrices that read the same input."""

    name: str  # "model.layers.0.self_attn.qkv_proj", for the report
    linears: dict[str, nn.Linear]  # checkpoint name without ".weight" -> matrix
    divide: Callable[[Tensor], None]  # divides what produces the input by a scale [in]
    heads: tuple[int, int] | None = None  # see `search_scale`

    @property
    def first(self) -> nn.Linear:
        """Any of them: all read the same."""
        return next(iter(self.linears.values()))


def linear_groups(model: nn.Module) -> list[list[LinearGroup]]:
    """The four groups of every decoder layer of a transformers model."""
    layers = cast(Any, model).model.layers
    return [
        _groups_of_layer(layer, f"model.layers.{index}", cast(Any, model).config)
        for index, layer in enumerate(layers)
    ]


def _groups_of_layer(layer: Any, name: str, config: Any) -> list[LinearGroup]:
    attention, mlp = layer.self_attn, layer.mlp
    repeats = config.num_attention_heads // config.num_key_value_heads

    def group(title: str, module: str, names: Sequence[str], **fields: Any) -> LinearGroup:
        parent = getattr(layer, module)
        linears = {f"{name}.{module}.{n}": getattr(parent, n) for n in names}
        return LinearGroup(f"{name}.{module}.{title}", linears, **fields)

    def divide_values(scale: Tensor) -> None:  # [H * D], alike for the query heads that share a value head
        _divide_rows(attention.v_proj, scale.view(-1, repeats, attention.head_dim)[:, 0].flatten())

    heads = (repeats, attention.head_dim)
    return [
        group(
            "qkv_proj",
            "self_attn",
            ("q_proj", "k_proj", "v_proj"),
            divide=layer.input_layernorm.weight.data.div_,
        ),
        group("o_proj", "self_attn", ("o_proj",), divide=divide_values, heads=heads),
        group(
            "gate_up_proj",
            "mlp",
            ("gate_proj", "up_proj"),
            divide=layer.post_attention_layernorm.weight.data.div_,
        ),
        group("down_proj", "mlp", ("down_proj",), divide=lambda scale: _divide_rows(mlp.up_proj, scale)),
    ]


def _divide_rows(linear: nn.Linear, scale: Tensor) -> None:
    linear.weight.data.div_(scale[:, None])
    if linear.bias is not None:
        linear.bias.data.div_(scale)


def record_inputs(
    model: nn.Module, groups: Sequence[LinearGroup], batches: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Run the batches of token ids [b, t] through the model and keep what each group read: [rows, in] float32.

    At most MAX_ROWS rows for each group, the same number of every batch, evenly spread.
    """
    kept: dict[str, list[Tensor]] = {group.name: [] for group in groups}
    per_batch = max(1, MAX_ROWS // len(batches))

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2)
            kept[name].append(rows[:: -(-len(rows) // per_batch)].float())

        return hook

    hooks = [group.first.register_forward_pre_hook(keep(group.name)) for group in groups]
    try:
        with torch.inference_mode():
            for batch in batches:
                model(batch.to(cast(Any, model).device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(rows) for name, rows in kept.items()}


def search_layer(
    groups: Sequence[LinearGroup], inputs: dict[str, Tensor], group_size: int, grid: Sequence[float] = GRID
) -> Iterator[tuple[LinearGroup, SearchResult]]:
    """Find the best scale of each group of a layer; the model stays as it is."""
    for group in groups:
        weights = [linear.weight.data for linear in group.linears.values()]
        yield group, search_scale(inputs[group.name], weights, group_size, grid, group.heads)


def apply_scale(group: LinearGroup, scale: Tensor) -> None:
    """Move a scale from the input into the matrices; what the model computes stays the same."""
    for linear in group.linears.values():
        linear.weight.data.mul_(scale)
    group.divide(scale)


def quantize_layer(groups: Sequence[LinearGroup], group_size: int) -> dict[str, Tensor]:
    """The layer's matrices as the tensors of an AWQ checkpoint, by name."""
    tensors: dict[str, Tensor] = {}
    for group in groups:
        for name, linear in group.linears.items():
            packed = pack_checkpoint(quantize_groups(linear.weight.data, group_size))
            tensors |= {f"{name}.{key}": tensor.cpu().contiguous() for key, tensor in packed.items()}
    return tensors
