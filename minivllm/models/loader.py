"""From files to a filled model. Reads safetensors only: a pickle from a stranger can run code, a safetensors
file not.

Files are mapped, not read: a rank touches the pages that hold its own shards, one tensor after the other, so that
loading needs little more memory than its share of the model.
"""

import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minivllm.hardware import total_memory
from minivllm.layers.context import LayerContext
from minivllm.layers.linear_method import UnquantizedLinear
from minivllm.layers.packed import PackedLinear
from minivllm.layers.weights import CheckpointTensor, WeightSlot
from minivllm.model_config import ModelConfig
from minivllm.model_files import mapping, read_json_object, short
from minivllm.models.decoder import DecoderModel
from minivllm.models.registry import ModelRegistry
from minivllm.ops import AttentionBackend, packs_weights
from minivllm.parallel.group import ONE_STAGE, SINGLE, PipelineParallel, TensorParallel
from minivllm.quantization.registry import linear_method

logger = logging.getLogger(__name__)

NUM_MAPPED = 16  # tensors before a file is opened anew: what was read counts as our memory until it is closed
CHECKED_AT_ONCE = 2**20  # numbers
LOAD_FORMATS = ("auto", "safetensors", "dummy")
FILE_DTYPES = ("BF16", "F16", "F32", "F64")
ROTARY_BYTES = 22  # for each position and each number of a head, while layers/rotary.py makes its table
PACKED = (".qweight", ".qzeros")  # AWQ's words


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
    pack: bool = False,
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
        pack: to compute only, on a CPU in float32: matrices may lie in the order of the C++ kernel (layers/packed.py).

    Raises:
        ValueError: unknown load_format, a quantized checkpoint that is not read, files that do not fit or are damaged,
            or a model that does not fit into the memory.
    """
    if load_format not in LOAD_FORMATS:
        raise ValueError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {load_format!r}.")
    method = linear_method(quantization, model_config.raw.get("quantization_config"))
    is_whole = tp.size == 1 and pp.is_first and pp.is_last
    if method is None and pack and is_whole and packs_weights(backend, dtype):
        is_bfloat16 = load_format != "dummy" and holds_only_bfloat16(model_config.path)
        method = PackedLinear(torch.bfloat16 if is_bfloat16 else dtype)
    context = LayerContext(dtype, torch.device(device), method or UnquantizedLinear(), tp, pp)
    model = _build(model_config, context, backend)
    weights: Iterator[tuple[str, CheckpointTensor]] = (
        dummy_weights(model.weight_slots(), seed)
        if load_format == "dummy"
        else read_weights(model_config.path)
    )
    with torch.no_grad():
        model.load_weights(weights)
    logger.info("%s", describe_weights(model))
    return model.eval()


def _build(config: ModelConfig, context: LayerContext, backend: AttentionBackend) -> DecoderModel:
    """The empty model. A config.json can ask for more than there is, by mistake or on purpose."""
    share = config.num_params // (context.tp.size * context.pp.size)
    num_bytes = share * _bits_of_a_weight(context) // 8
    num_bytes += ROTARY_BYTES * config.max_position_embeddings * config.head_dim
    sentence = (
        f"model: config.json asks for {config.num_params:,} weights and {config.max_position_embeddings:,} positions, "
        f"which do not fit into the memory of device {context.device}."
    )
    if num_bytes > total_memory(context.device):
        raise ValueError(sentence)
    try:
        model: DecoderModel = ModelRegistry.resolve(config.architecture)(config, context, backend)
    except (MemoryError, RuntimeError) as error:  # torch knows no better name for it
        raise ValueError(sentence) from error
    return model


def _bits_of_a_weight(context: LayerContext) -> int:
    """At least so many, whatever the method."""
    if isinstance(context.method, PackedLinear):
        return 8 * context.method.stored_dtype.itemsize
    is_plain = isinstance(context.method, UnquantizedLinear)
    return 8 * context.params_dtype.itemsize if is_plain else 4


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
        elif name.endswith(PACKED):
            yield name, torch.randint(-(2**31), 2**31, slot.shape, generator=generator, dtype=torch.int32)
        elif name.endswith(".scales"):
            yield name, torch.full(slot.shape, std / 42.5**0.5)
        else:
            yield name, torch.randn(slot.shape, generator=generator) * std


class FileTensor:
    """A tensor in a safetensors file; slicing reads that part of it, on the CPU.

    Raises:
        ValueError: it holds numbers of another kind than this model's, or, when sliced, NaN or infinite ones: no answer
            of such a model would mean anything.
    """

    def __init__(self, file: Any, name: str) -> None:
        self._name, self._slice = name, file.get_slice(name)
        self._whole = partial(file.get_tensor, name)
        self.shape = tuple(self._slice.get_shape())
        dtype, allowed = self._slice.get_dtype(), ("I32",) if name.endswith(PACKED) else FILE_DTYPES
        if dtype not in allowed:
            raise ValueError(f"checkpoint tensor {name} holds {dtype} numbers, not {' or '.join(allowed)}.")

    def __getitem__(self, index: Any) -> Tensor:
        piece: Tensor = (
            self._slice[index] if self.shape else self._whole()
        )  # a single number cannot be sliced
        if not _is_finite(piece):
            raise ValueError(
                f"checkpoint tensor {self._name} holds NaN or infinite numbers; download it again."
            )
        return piece


def _is_finite(piece: Tensor) -> bool:
    """By sums; only where one is not finite, which too large a sum is as well, a second look.

    torch widens a matrix in order to sum it. So some rows at a time: there is no second copy of the whole.
    """
    parts: Iterable[Tensor] = [piece]
    if piece.numel() > CHECKED_AT_ONCE:
        parts = piece.split(max(1, CHECKED_AT_ONCE * len(piece) // piece.numel()))
    return all(
        math.isfinite(part.sum(dtype=torch.float32).item()) or bool(part.isfinite().all()) for part in parts
    )


def read_weights(folder: Path) -> Iterator[tuple[str, FileTensor]]:
    """Yield every tensor of the folder's safetensors files with its name, unread.

    Raises:
        ValueError: no such files, one that the index names is missing, or one is damaged or holds other numbers.
    """
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = list(tensors.keys())
            for first in range(0, len(names), NUM_MAPPED):
                with safe_open(file, framework="pt") as tensors:
                    for name in names[first : first + NUM_MAPPED]:
                        yield name, FileTensor(tensors, name)
        except SafetensorError as error:
            raise ValueError(
                f"{file} is not a complete safetensors file ({error}); download it again."
            ) from error


def holds_only_bfloat16(folder: Path) -> bool:
    """Is every tensor of the checkpoint stored in bfloat16? Then nothing is lost by keeping it so."""
    return all(tensor._slice.get_dtype() == "BF16" for _, tensor in read_weights(folder))


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint in reading order: those the index names, or the only one, or all."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in _names_in(index)]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:  # "consolidated" files repeat the same weights under other names
        found = sorted(folder.glob("*.safetensors"))
        files = [f for f in found if f.is_file() and not f.name.startswith("consolidated")]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        what = f"{missing[0]}, which its index names" if missing else "any *.safetensors file"
        raise ValueError(f"model: the folder {folder} lacks {what}; other weight formats are not read.")
    return files


def _names_in(index: Path) -> list[str]:
    """The files that an index names, all of them beside it: a stranger's index opens nothing else."""
    weight_map = read_json_object(index).get("weight_map")
    if weight_map is None:
        raise ValueError(f"{index} is no index of safetensors files (no weight_map); download it again.")
    names = list(mapping(f"{index}: weight_map", weight_map).values())
    for name in names:
        is_name = isinstance(name, str) and name.isprintable() and len(name) < 256
        if not is_name or not name.endswith(".safetensors") or Path(name).name != name or "\\" in name:
            raise ValueError(f"{index} must name *.safetensors files of its own folder, got {short(name)}.")
    return sorted(set(names))
