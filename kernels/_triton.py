"""Triton, or a stand-in where it has no wheel (macOS, Windows): the kernels can be imported and read there, not run.

A kernel runs compiled on a CUDA device. With ``TRITON_INTERPRET=1`` in the environment *before the first import*
Triton runs it as plain Python instead, one program after the other: slow, and it works on any machine with a wheel.
"""

import os
from typing import Any

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ModuleNotFoundError:
    HAS_TRITON = False

    class _Absent:
        """Decorates nothing and annotates nothing."""

        constexpr = None

        @staticmethod
        def jit(function: Any) -> Any:
            """Leave the kernel as it is: text to read."""
            return function

    triton = tl = _Absent()


def check_can_run(device_type: str) -> None:
    """Raise RuntimeError, with the way out, unless a kernel can run on tensors of this device type."""
    if not HAS_TRITON:
        raise RuntimeError("Triton is not installed (it has wheels for Linux only): use the torch path")
    if device_type != "cuda" and not INTERPRETED:
        raise RuntimeError(
            f"Triton kernels run on a CUDA device, not on {device_type!r}: use the torch path, or set "
            "TRITON_INTERPRET=1 before minivllm is imported (slow)"
        )


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n: the sizes that a tile of a kernel can have."""
    return 1 << (n - 1).bit_length()


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
