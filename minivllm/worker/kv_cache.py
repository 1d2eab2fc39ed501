"""The memory behind the blocks: how many blocks fit, and the tensors they lie in.

Bytes of one token = 2 (key and value) x K heads x D head size x bytes of a number, summed over the layers. For
Llama-2-7B in 16 bits that is 2 x 32 x 128 x 2 bytes x 32 layers = 512 KiB; `kv_cache_dtype` fp8 makes it 256 KiB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from minivllm.attention.cache_dtype import movable
from minivllm.attention.metadata import LayerKVCache
from minivllm.config import EngineConfig
from minivllm.core.block_table import cdiv
from minivllm.hardware import total_memory
from minivllm.model_config import KVCacheSpec

MAX_CPU_BYTES = 4 * 2**30  # as vLLM's default KV cache on a CPU
CPU_SHARE = 0.1  # of the machine's memory: a laptop has other things to do


def bytes_per_block(specs: Sequence[KVCacheSpec], block_size: int) -> int:
    """Bytes that one block takes in all layers together."""
    return block_size * sum(spec.bytes_per_token for spec in specs)


def determine_num_blocks(
    config: EngineConfig,
    specs: Sequence[KVCacheSpec],
    max_model_len: int,
    device: torch.device,
    num_local_ranks: int = 1,
) -> int:
    """How many blocks the KV cache gets, the null block included.

    In this order: `num_gpu_blocks_override`; `kv_cache_memory_bytes`; on a GPU what `gpu_memory_utilization` leaves
    after the weights, the rest of the memory being for activations; on a CPU a tenth of the memory, at most 4 GiB,
    divided among the ranks of this machine. More than `max_num_seqs` requests of full length can use is never taken.

    Raises:
        ValueError: the budget does not hold even one block beside the null block.
    """
    if config.num_gpu_blocks_override is not None:
        return config.num_gpu_blocks_override
    per_block = bytes_per_block(specs, config.block_size)
    budget = config.kv_cache_memory_bytes or _default_budget(config, device, num_local_ranks)
    num_blocks = budget // per_block
    if num_blocks < 2:
        raise ValueError(
            f"a KV cache of {budget} bytes holds {num_blocks} blocks of {per_block} bytes, and at least 2 are needed: "
            "raise kv_cache_memory_bytes (or gpu_memory_utilization on a GPU)"
        )
    return min(num_blocks, 1 + config.max_num_seqs * cdiv(max_model_len, config.block_size))


def _default_budget(config: EngineConfig, device: torch.device, num_local_ranks: int) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * config.gpu_memory_utilization) - (total - free))
    return min(MAX_CPU_BYTES, int(CPU_SHARE * total_memory(device))) // num_local_ranks


def allocate_kv_caches(
    specs: Sequence[KVCacheSpec], num_blocks: int, block_size: int, device: torch.device
) -> list[LayerKVCache]:
    """One key and one value tensor [N, B, K, D] for each layer, all zero.

    Raises:
        ValueError: the machine has not so much memory.
    """
    try:
        return _allocate(specs, num_blocks, block_size, device)
    except (
        MemoryError,
        RuntimeError,
        ValueError,
        OverflowError,
    ) as error:  # numpy and torch name it in many ways
        raise ValueError(
            f"a KV cache of {num_blocks} blocks takes {num_blocks * bytes_per_block(specs, block_size):,} bytes, which "
            "this machine does not give: lower kv_cache_memory_bytes, num_gpu_blocks_override or swap_space"
        ) from error


def _allocate(
    specs: Sequence[KVCacheSpec], num_blocks: int, block_size: int, device: torch.device
) -> list[LayerKVCache]:
    caches = []
    for spec in specs:
        shape = (num_blocks, block_size, spec.num_kv_heads, spec.head_size)
        dtype = getattr(torch, spec.dtype)
        caches.append(LayerKVCache(_zeros(shape, dtype, device), _zeros(shape, dtype, device)))
    return caches


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU from numpy, whose zeros take memory only where something is written; torch would write it all now."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes == 0:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)


def move_blocks(
    sources: Sequence[LayerKVCache], targets: Sequence[LayerKVCache], pairs: Sequence[tuple[int, int]]
) -> None:
    """Copy whole blocks from one set of caches to another, which may lie on another device (swapping).

    Args:
        sources: one cache for each layer.
        targets: likewise.
        pairs: (block id in the source, block id in the target).
    """
    from_ids, to_ids = torch.tensor(pairs).unbind(1)
    for source, target in zip(sources, targets, strict=True):
        for read, write in zip(source, target, strict=True):
            moved = movable(read)[from_ids.to(read.device)].to(write.device)
            movable(write)[to_ids.to(write.device)] = moved


def num_swap_blocks(config: EngineConfig, specs: Sequence[KVCacheSpec]) -> int:
    """How many blocks `swap_space` (GiB) holds.

    Raises:
        ValueError: swapping was asked for, and the space does not hold one block.
    """
    per_block = bytes_per_block(specs, config.block_size)
    num_blocks = int(config.swap_space * 2**30) // per_block
    if config.preemption_mode != "recompute" and num_blocks < 1:
        raise ValueError(
            f"preemption_mode {config.preemption_mode!r} needs swap_space, and {config.swap_space} GiB hold "
            f"no block of {per_block} bytes: raise swap_space"
        )
    return num_blocks
