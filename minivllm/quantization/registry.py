"""Which `LinearMethod` a model is loaded with: what the user asked for, and what the checkpoint says about itself."""

from collections.abc import Mapping
from typing import Any

import torch

from minivllm.layers.linear_method import LinearMethod
from minivllm.quantization.awq_linear import AWQLinear
from minivllm.quantization.weight_only import WeightOnlyLinear

# Names as in vLLM. Its `fp8` also rounds the activations to 8 bits; ours leaves them, and needs no special hardware.
# Its int8 is for the experts of a mixture only.
ONLINE = {"int8_per_channel_weight_only": torch.int8, "fp8": torch.float8_e4m3fn}
MAKE_ONE = "python -m minivllm.quantization.awq MODEL OUT"


def linear_method(name: str | None, checkpoint: Mapping[str, Any] | None) -> LinearMethod | None:
    """How linear layers store their weights; None: as they are.

    Args:
        name: what the user asked for; None: what the checkpoint says.
        checkpoint: `quantization_config` of the model's config.json, if it has one.

    Raises:
        ValueError: the two contradict each other, or a layout that is not read here.
    """
    if checkpoint is None:
        if name == "awq":
            raise ValueError(
                f"quantization: 'awq' needs a checkpoint in that format, and this one is not; make one with {MAKE_ONE}."
            )
        return None if name is None else WeightOnlyLinear(ONLINE[name])
    method = str(checkpoint.get("quant_method", "unknown method")).lower()
    if method == "compressed-tensors" and not checkpoint.get("config_groups"):
        return linear_method(name, None)  # weights as they are: it only brings scales for an 8-bit KV cache
    if method != "awq":
        raise ValueError(
            f"model: the checkpoint is quantized with {method!r}; of quantized ones only AWQ's are read."
        )
    if name not in (None, "awq"):
        raise ValueError(
            f"quantization: {name!r} was asked for, and the checkpoint is already quantized with 'awq'."
        )
    return AWQLinear.from_config(checkpoint)
