"""Where a rank computes, and with which numbers."""

from __future__ import annotations

import torch

from minivllm.config import ModelConfig
from minivllm.hardware import has_bfloat16_units

FP8 = {"fp8": torch.float8_e4m3fn, "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is cuda where there is one, and each rank of a machine takes a device of its own.

    A CUDA device always comes with its index: torch.cuda.set_device takes no other, and a tensor's device has one.

    Raises:
        ValueError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda[:index], not {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} was asked for, but torch sees no CUDA device here: use cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda[:index], not {name!r}")
    return _own_device(device, local_rank) if device.type == "cuda" else device


def _own_device(device: torch.device, local_rank: int) -> torch.device:
    """The `local_rank`-th device after the first."""
    first, count = device.index or 0, torch.cuda.device_count()
    if first >= count:
        raise ValueError(f"device 'cuda:{first}' was asked for, and torch sees {count} here, from cuda:0 on")
    if first + local_rank >= count:
        raise ValueError(
            f"the parallel sizes need at least {local_rank + 1} CUDA devices on this machine, from cuda:{first} on, "
            f"and torch sees {count}: lower tensor_parallel_size, pipeline_parallel_size or data_parallel_size"
        )
    return torch.device("cuda", first + local_rank)


def resolve_dtype(name: str, model_config: ModelConfig, device: torch.device) -> torch.dtype:
    """The type of weights and activations, and of the KV cache unless `kv_cache_dtype` says otherwise.

    `auto` on a GPU is the checkpoint's (float32 checkpoints become bfloat16, as half the bytes are half the time); on
    a CPU it is float32, unless the CPU has units for bfloat16 and the model more than 100 million weights: then reading
    half the bytes counts for more than the conversions around each product.
    """
    if name == "auto":
        if device.type == "cpu":
            pays = model_config.num_params > 100e6 and has_bfloat16_units()
            return torch.bfloat16 if pays else torch.float32
        return torch.bfloat16 if model_config.dtype == "float32" else getattr(torch, model_config.dtype)
    return {"half": torch.float16, "float": torch.float32}.get(name) or getattr(torch, name)


def resolve_kv_cache_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of the KV cache of a model that computes in dtype. `fp8` is e4m3, as in vLLM.

    Raises:
        ValueError: one 16-bit type is asked for and the model computes in the other: a cache of the same size that
            holds less of the range, or of the precision.
    """
    if name == "auto":
        return dtype
    if name in FP8:
        return FP8[name]
    wanted: torch.dtype = getattr(torch, name)
    if dtype not in (wanted, torch.float32):
        model = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"kv_cache_dtype {name!r} needs dtype {name} or float32, and this model computes in {model}: "
            "use auto, or fp8 for a smaller cache"
        )
    return wanted
