"""What the processor can do, asked before a data type is chosen."""

import torch


def has_bfloat16_units(device: str = "cpu") -> bool:
    """Whether matrix products in bfloat16 are faster than in float32: AMX on a CPU, compute capability 8.0 on a GPU.

    Without such units bfloat16 is emulated, which can be hundreds of times slower than float32.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    query = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, but there is no public one
    return bool(query and query())
