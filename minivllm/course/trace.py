"""`trace`: hands over to `python -m minivllm.serve.trace` in a process of its own, as the engine needs torch."""

from __future__ import annotations

import subprocess
import sys


def main(arguments: list[str]) -> int:
    """The command: `trace 05 [--mine PARTS] [--shadow PARTS]`."""
    return subprocess.run([sys.executable, "-m", "minivllm.serve.trace", *arguments], check=False).returncode
