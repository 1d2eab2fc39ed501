"""From files to a filled model. Reads safetensors only: a pickle from a stranger can run code, a safetensors
file not.

Files are read one after the other and tensors one at a time, so that loading needs little more memory than
the model.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minivllm.layers.context import LayerContext
from minivllm.layers.linear_method import LinearMethod, UnquantizedLinear
from minivllm.layers.weights import WeightSlot
from minivllm.model_config import ModelConfig
from minivllm.models.decoder import DecoderModel
from minivllm.models.registry import ModelRegistry
from minivllm.ops import AttentionBackend
from minivllm.parallel.group import SINGLE, TensorParallel

LOAD_FORMATS = ("auto", "safetensors", "dummy")


def load_model(
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    backend: AttentionBackend,
    linear_method: LinearMethod | None = None,
    tp: TensorParallel = SINGLE,
    load_format: str = "auto",
    seed: int = 0,
) -> DecoderModel:
    """Build the model that model_config describes and fill it, in the given dtype and on the given device.

    Args:
        model_config: what to build, and the folder to read.
        dtype: of all parameters; checkpoint tensors are cast.
        device: where the parameters live.
        backend: see ops.attention_backend.
        linear_method: how linear layers store weights; None: as they are.
        tp: this process's rank among those that share the model.
        load_format: "auto" or "safetensors" read the folder; "dummy" draws random weights instead.
        seed: of the dummy weights.

    Raises:
        ValueError: unknown load_format, quantized checkpoint without linear_method, or files that do not fit.
    """
    if load_format not in LOAD_FORMATS:
        raise ValueError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {load_format!r}.")
    quantization = model_config.raw.get("quantization_config")
    if quantization and linear_method is None:
        method = quantization.get("quant_method", "unknown method")
        raise ValueError(
            f"model: the checkpoint is quantized ({method}), which needs a linear_method that reads it."
        )
    context = LayerContext(dtype, torch.device(device), linear_method or UnquantizedLinear(), tp)
    model: DecoderModel = ModelRegistry.resolve(model_config.architecture)(model_config, context, backend)
    with torch.no_grad():
        dummy = load_format == "dummy"
        model.load_weights(
            dummy_weights(model.weight_slots(), seed) if dummy else read_weights(model_config.path)
        )
    return model.eval()


def dummy_weights(slots: dict[str, WeightSlot], seed: int, std: float = 0.02) -> Iterator[tuple[str, Tensor]]:
    """Draw each whole checkpoint tensor in turn (norms are ones): every rank of a split model agrees."""
    generator = torch.Generator().manual_seed(seed)
    for name, slot in slots.items():
        is_norm = name.endswith("norm.weight")
        yield name, torch.ones(slot.shape) if is_norm else torch.randn(slot.shape, generator=generator) * std


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the folder's safetensors files with its name, on the CPU.

    Raises:
        ValueError: no such files, one that the index names is missing, or one is damaged.
    """
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(
                f"{file} is not a complete safetensors file ({error}); download it again."
            ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint in reading order: those the index names, or the only one, or all."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{index} is no index of safetensors files ({error}); download it again."
            ) from error
        files = [folder / name for name in names]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:  # "consolidated" files repeat the same weights under other names
        files = sorted(f for f in folder.glob("*.safetensors") if not f.name.startswith("consolidated"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        what = f"{missing[0]}, which its index names" if missing else "any *.safetensors file"
        raise ValueError(f"model: the folder {folder} lacks {what}; other weight formats are not read.")
    return files
