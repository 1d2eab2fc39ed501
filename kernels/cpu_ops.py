"""The C++ kernels of cpu/, called on torch tensors. Only where `_cpp.library()` is not None.

A call costs what it costs to find out pointers and sizes, about as much as one call of a torch operation. There is no
autograd: who needs gradients uses torch. The sources say what each kernel does, and the torch forms in minivllm/ops.py
and minivllm/attention/paged.py say it again in other words.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from ._cpp import library

DTYPES = {torch.float32: "paged_attention_float32", torch.bfloat16: "paged_attention_bfloat16"}
_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_SIZES = {count: _LONG * count for count in range(10)}
_SIGNATURES = {
    "paged_attention_float32": (*[_POINTER] * 8, _FLOAT),
    "paged_attention_bfloat16": (*[_POINTER] * 8, _FLOAT),
    "rms_norm": (*[_POINTER] * 6, _FLOAT),
    "rotary": (_POINTER,) * 5,
    "silu_and_mul": (_POINTER,) * 3,
    "reshape_and_cache": (_POINTER,) * 6,
    "packed_linear_float32": (_POINTER,) * 5,
    "packed_linear_bfloat16": (_POINTER,) * 5,
    "packed_rows_float32": (_POINTER,) * 4,
    "packed_rows_bfloat16": (_POINTER,) * 4,
    "panel_size": (),
}


@cache
def _functions() -> dict[str, ctypes._CFuncPtr]:
    loaded = library()
    assert loaded is not None, "there are no C++ kernels here"
    functions = {}
    for name, types in _SIGNATURES.items():
        functions[name] = getattr(loaded, name)
        functions[name].argtypes, functions[name].restype = types, None if types else _LONG
    return functions


def paged_attention_cpp(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    block_tables: Tensor,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Causal attention of a flat batch over the paged cache.

    Args:
        query: [T, H, D], float32 or bfloat16; a token's H * D elements lie together, tokens may be any distance apart.
        key_cache: [N, B, K, D] contiguous, of the same type.
        value_cache: likewise.
        query_start_loc: [R + 1] int32.
        seq_lens: [R] int32.
        block_tables: [R, max_blocks] int32.
        scale: factor on the scores.
        window: how many of the latest tokens a token sees, itself included; None: all.

    Returns:
        [T, H, D]; zeros for tokens beyond the last request.
    """
    num_tokens, num_heads, head_size = query.shape
    _, block_size, num_kv_heads, _ = key_cache.shape
    num_requests = len(seq_lens)
    if query.stride(2) != 1 or query.stride(1) != head_size:
        query = query.contiguous()
    out = torch.empty((num_tokens, num_heads, head_size), dtype=query.dtype)
    num_owned = int(query_start_loc[num_requests])
    if num_owned < num_tokens:
        out[num_owned:] = 0
    sizes = _SIZES[9](
        query.stride(0),
        block_tables.stride(0),
        num_requests,
        num_heads,
        num_kv_heads,
        head_size,
        block_size,
        window or 0,
        torch.get_num_threads(),
    )
    _functions()[DTYPES[query.dtype]](
        out.data_ptr(),
        query.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        block_tables.data_ptr(),
        query_start_loc.data_ptr(),
        seq_lens.data_ptr(),
        sizes,
        scale,
    )
    return out


def reshape_and_cache_cpp(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Write key and value [T, K, D] into key_cache and value_cache [N, B, K, D] at slot_mapping [T] int64, in place.

    Each token's K * D elements lie together, tokens may be any distance apart.
    """
    num_bytes = key.element_size()
    sizes = _SIZES[4](
        len(key),
        key.shape[1] * key.shape[2] * num_bytes,
        key.stride(0) * num_bytes,
        value.stride(0) * num_bytes,
    )
    _functions()["reshape_and_cache"](
        key.data_ptr(),
        value.data_ptr(),
        key_cache.data_ptr(),
        value_cache.data_ptr(),
        slot_mapping.data_ptr(),
        sizes,
    )


def rms_norm_cpp(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [T, n] with weight [n], or x [T, M, n] with weight [M, n], float32 -> the same shape.

    A token's elements lie together, tokens may be any distance apart.
    """
    out = torch.empty(x.shape)
    _functions()["rms_norm"](out.data_ptr(), None, x.data_ptr(), None, weight.data_ptr(), _norm_sizes(x), eps)
    return out


def add_rms_norm_cpp(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """stream = x + residual, [T, n] float32 contiguous -> (rms_norm of the stream, the stream)."""
    out, stream = torch.empty_like(x), torch.empty_like(x)
    _functions()["rms_norm"](
        out.data_ptr(),
        stream.data_ptr(),
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        _norm_sizes(x),
        eps,
    )
    return out, stream


def _norm_sizes(x: Tensor) -> ctypes.Array[ctypes.c_long]:
    groups = 1 if x.dim() == 2 else x.shape[1]
    width = x.shape[-1]
    return _SIZES[6](len(x), groups, width, x.stride(0), groups * width, torch.get_num_threads())


def rotary_cpp(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [T, heads, D] float32, in place, by cos and sin [T, 1, D]. A token's elements lie together."""
    sizes = _SIZES[6](*x.shape, x.stride(0), cos.stride(0), torch.get_num_threads())
    _functions()["rotary"](x.data_ptr(), cos.data_ptr(), sin.data_ptr(), None, sizes)
    return x


def silu_and_mul_cpp(x: Tensor) -> Tensor:
    """x [T, 2 n] float32 contiguous -> [T, n]."""
    num_tokens, width = x.shape
    out = torch.empty((num_tokens, width // 2))
    sizes = _SIZES[3](num_tokens, width // 2, torch.get_num_threads())
    _functions()["silu_and_mul"](out.data_ptr(), x.data_ptr(), sizes)
    return out


@cache
def panel_size() -> int:
    """How many outputs of a packed matrix lie side by side; it depends on the width of the processor's vectors."""
    size: int = _functions()["panel_size"]()
    return size


_LINEAR = {torch.float32: "packed_linear_float32", torch.bfloat16: "packed_linear_bfloat16"}
_ROWS = {torch.float32: "packed_rows_float32", torch.bfloat16: "packed_rows_bfloat16"}


def packed_linear_cpp(x: Tensor, packed: Tensor, out_features: int, bias: Tensor | None) -> Tensor:
    """x [T, in] float32 times packed [out / panel, in, panel], float32 or bfloat16, plus bias [out] -> [T, out]."""
    x = x.contiguous()
    num_tokens, in_features = x.shape
    out = torch.empty((num_tokens, out_features))
    _functions()[_LINEAR[packed.dtype]](
        out.data_ptr(),
        x.data_ptr(),
        packed.data_ptr(),
        None if bias is None else bias.data_ptr(),
        _SIZES[4](num_tokens, out_features, in_features, torch.get_num_threads()),
    )
    return out


def packed_rows_cpp(ids: Tensor, packed: Tensor) -> Tensor:
    """Rows ids [n] int64 of the matrix that was packed -> [n, in] float32. Nobody checks that there are such rows."""
    out = torch.empty((len(ids), packed.shape[1]))
    sizes = _SIZES[3](*out.shape, torch.get_num_threads())
    _functions()[_ROWS[packed.dtype]](out.data_ptr(), ids.data_ptr(), packed.data_ptr(), sizes)
    return out
