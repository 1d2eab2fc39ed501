"""All layers of a decoder in one call of cpu/decoder.cpp, in float32.

A decode step of a small model is some sixty operations of a few microseconds each, and calling them from Python takes
longer than they do. Of many tokens, each thread takes some through a layer, and what lies between its operations stays
in its cache. Python hands over one table of pointers: to weights that are packed already (cpu/linear.cpp).
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._cpp import library

_LONG, _POINTER = ctypes.c_long, ctypes.c_void_p


@dataclass(frozen=True)
class LayerWeights:
    """One layer in the order of `struct Layer`; None where the model has none.

    The four matrices [out, in] are packed, [out / panel, in, panel], all float32 or all bfloat16; the rest is float32.
    """

    input_norm: Tensor  # [hidden]
    qkv: Tensor  # [(H + 2 K) D, hidden]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [H + K, D]
    o: Tensor  # [hidden, H D]
    o_bias: Tensor | None
    post_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 inner, hidden]
    gate_up_bias: Tensor | None
    down: Tensor  # [hidden, inner]
    down_bias: Tensor | None
    window: int | None


@dataclass(frozen=True)
class DecoderShape:
    """What all layers share."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    is_bfloat16: bool  # the matrices
    eps: float
    scale: float


_OF_MODEL = "layers hidden heads kv_heads head_size inner is_bfloat16 block_size threads"
_OF_STEP = "tokens wanted requests table_stride"
_BUFFERS = "x stream branch normed qkv attended out"
_INDICES = "positions slots wanted angles block_tables query_start_loc seq_lens"


class _Sizes(ctypes.Structure):
    _fields_ = [(name, _LONG) for name in f"{_OF_MODEL} {_OF_STEP}".split()]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in f"{_BUFFERS} {_INDICES}".split()),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
    ]


class CpuDecoder:
    """Layers and final norm of one model."""

    def __init__(
        self,
        shape: DecoderShape,
        layers: Sequence[LayerWeights],
        final_norm: Tensor,
        angles: Tensor,
    ) -> None:
        """final_norm: [hidden]. angles: [max_position, 2 D] cos and sin."""
        loaded = library()
        assert loaded is not None, "there are no C++ kernels here"
        self._forward = loaded.decoder_forward
        self._forward.argtypes, self._forward.restype = (_POINTER,) * 4, None
        self.shape = shape
        self._kept: list[Tensor] = [final_norm, angles]  # what the pointers point to
        self._layers = np.array([self._pointers(layer) for layer in layers], dtype=np.int64)  # [layers, 14]
        self._final_norm = final_norm.data_ptr()
        self._bound: object = None
        self._sizes = _Sizes(
            len(layers),
            shape.hidden,
            shape.heads,
            shape.kv_heads,
            shape.head_size,
            shape.inner,
            shape.is_bfloat16,
        )
        self._step = _Step(angles=angles.data_ptr(), eps=shape.eps, scale=shape.scale)
        self._room = 0  # tokens

    def _make_room(self, num_tokens: int) -> None:
        """What lies between the kernels of a layer, for so many tokens."""
        n = self.shape
        widths = {
            "stream": n.hidden,
            "branch": n.hidden,
            "normed": n.hidden,
            "qkv": (n.heads + 2 * n.kv_heads) * n.head_size,
            "attended": n.heads * n.head_size,
        }
        self._scratch = {name: torch.empty(num_tokens, width) for name, width in widths.items()}
        for name, tensor in self._scratch.items():
            setattr(self._step, name, tensor.data_ptr())
        self._room = num_tokens

    def _pointers(self, layer: LayerWeights) -> list[int]:
        row = []
        for name in LayerWeights.__dataclass_fields__:
            tensor = getattr(layer, name)
            if name == "window":
                row += [0, 0, tensor or 0]  # the caches come with the first step
            elif tensor is None:
                row.append(0)
            else:
                self._kept.append(tensor)
                row.append(tensor.data_ptr())
        return row

    def _bind(self, kv_caches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._bound = kv_caches
        for layer, (key, value) in enumerate(kv_caches):
            self._layers[layer, 11:13] = key.data_ptr(), value.data_ptr()
        self._sizes.block_size = kv_caches[0][0].shape[1]

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        kv_caches: Sequence[tuple[Tensor, Tensor]],
        slot_mapping: Tensor,
        query_start_loc: Tensor,
        seq_lens: Tensor,
        block_tables: Tensor,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """x [T, hidden] of the embedding -> hidden states [T, hidden], or [n, hidden] of the tokens `wanted` [n].

        The other arguments as in AttentionMetadata.
        """
        num_tokens = len(x)
        if num_tokens > self._room:
            self._make_room(num_tokens)
        if kv_caches is not self._bound:
            self._bind(kv_caches)
        sizes, step = self._sizes, self._step
        sizes.threads, sizes.tokens, sizes.requests = torch.get_num_threads(), num_tokens, len(seq_lens)
        sizes.table_stride = block_tables.stride(0)
        sizes.wanted = -1 if wanted is None else len(wanted)
        step.wanted = None if wanted is None else wanted.data_ptr()
        out = x.new_empty(num_tokens if wanted is None else len(wanted), self.shape.hidden)
        step.x, step.out = x.data_ptr(), out.data_ptr()
        step.positions, step.slots = positions.data_ptr(), slot_mapping.data_ptr()
        step.block_tables, step.seq_lens = block_tables.data_ptr(), seq_lens.data_ptr()
        step.query_start_loc = query_start_loc.data_ptr()
        self._forward(ctypes.byref(sizes), ctypes.byref(step), self._layers.ctypes.data, self._final_norm)
        return out
