"""What the machine can do and hold, asked before a data type is chosen or memory is taken."""

import os

import torch


def has_bfloat16_units(device: str = "cpu") -> bool:
    """Whether matrix products in bfloat16 are faster than in float32: AMX on a CPU, compute capability 8.0 on a GPU.

    Without such units bfloat16 is emulated, which can be hundreds of times slower than float32.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    query = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, but there is no public one
    return bool(query and query())


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory, or of the machine's RAM; 8 GiB where the system does not tell (Windows)."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return 8 * 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
