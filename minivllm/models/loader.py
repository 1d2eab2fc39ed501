"""From files to a filled model. Reads safetensors only: a pickle from a stranger can run code, a safetensors
file not.

Files are mapped, not read: a rank touches the pages that hold its own shards, one tensor after the other, so that
loading needs little more memory than its share of the model.
"""

import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minivllm.layers.context import LayerContext
from minivllm.layers.linear_method import UnquantizedLinear
from minivllm.layers.weights import CheckpointTensor, WeightSlot
from minivllm.model_config import ModelConfig
from minivllm.models.decoder import DecoderModel
from minivllm.models.registry import ModelRegistry
from minivllm.ops import AttentionBackend
from minivllm.parallel.group import ONE_STAGE, SINGLE, PipelineParallel, TensorParallel
from minivllm.quantization.registry import linear_method

logger = logging.getLogger(__name__)

LOAD_FORMATS = ("auto", "safetensors", "dummy")


def load_model(
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    backend: AttentionBackend,
    quantization: str | None = None,
    tp: TensorParallel = SINGLE,
    pp: PipelineParallel = ONE_STAGE,
    load_format: str = "auto",
    seed: int = 0,
) -> DecoderModel:
    """Build the model that model_config describes and fill it, in the given dtype and on the given device.

    Args:
        model_config: what to build, and the folder to read.
        dtype: of all parameters; checkpoint tensors are cast.
        device: where the parameters live.
        backend: see ops.attention_backend.
        quantization: how linear layers store weights, see quantization.registry; None: as the checkpoint says.
        tp: this process's rank among those that share its layers.
        pp: the stage whose layers they are.
        load_format: "auto" or "safetensors" read the folder; "dummy" draws random weights instead.
        seed: of the dummy weights.

    Raises:
        ValueError: unknown load_format, a quantized checkpoint that is not read, or files that do not fit.
    """
    if load_format not in LOAD_FORMATS:
        raise ValueError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {load_format!r}.")
    method = linear_method(quantization, model_config.raw.get("quantization_config"))
    context = LayerContext(dtype, torch.device(device), method or UnquantizedLinear(), tp, pp)
    model: DecoderModel = ModelRegistry.resolve(model_config.architecture)(model_config, context, backend)
    weights: Iterator[tuple[str, CheckpointTensor]] = (
        dummy_weights(model.weight_slots(), seed)
        if load_format == "dummy"
        else read_weights(model_config.path)
    )
    with torch.no_grad():
        model.load_weights(weights)
    logger.info("%s", describe_weights(model))
    return model.eval()


def describe_weights(model: nn.Module) -> str:
    """One line: the memory that the weights take (on this rank), and in which types."""
    sizes: Counter[str] = Counter()
    for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.element_size()
    parts = ", ".join(f"{size / 1e6:,.1f} MB of {dtype}" for dtype, size in sizes.most_common())
    return f"Model weights: {sizes.total() / 1e6:,.1f} MB ({parts})"


def dummy_weights(slots: dict[str, WeightSlot], seed: int, std: float = 0.02) -> Iterator[tuple[str, Tensor]]:
    """Draw whole checkpoint tensors, each by its name and the seed (norms: ones), so that all ranks agree.

    AWQ's words hold eight 4-bit numbers each, all equally likely. A weight is the difference of two such numbers, whose
    variance is (16**2 - 1) / 6, times the scale.
    """
    for name, slot in slots.items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        if name.endswith("norm.weight"):
            yield name, torch.ones(slot.shape)
        elif name.endswith((".qweight", ".qzeros")):
            yield name, torch.randint(-(2**31), 2**31, slot.shape, generator=generator, dtype=torch.int32)
        elif name.endswith(".scales"):
            yield name, torch.full(slot.shape, std / 42.5**0.5)
        else:
            yield name, torch.randn(slot.shape, generator=generator) * std


class FileTensor:
    """A tensor in a safetensors file; slicing reads that part of it, on the CPU."""

    def __init__(self, file: Any, name: str) -> None:
        self._slice = file.get_slice(name)
        self._whole = partial(file.get_tensor, name)
        self.shape = tuple(self._slice.get_shape())

    def __getitem__(self, index: Any) -> Tensor:
        return self._slice[index] if self.shape else self._whole()  # a single number cannot be sliced


def read_weights(folder: Path) -> Iterator[tuple[str, FileTensor]]:
    """Yield every tensor of the folder's safetensors files with its name, unread.

    Raises:
        ValueError: no such files, one that the index names is missing, or one is damaged.
    """
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    yield name, FileTensor(tensors, name)
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
