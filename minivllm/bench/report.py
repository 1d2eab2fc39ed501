"""What makes a figure worth quoting: the machine, the date and the versions stand beside it in one JSON file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def provenance() -> dict[str, Any]:
    """Where and when a measurement was taken."""
    import torch

    has_gpu = torch.cuda.is_available()
    packages = ("torch", "transformers", *(("triton",) if has_gpu else ()))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        **({"cuda": torch.version.cuda} if has_gpu else {}),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def save(name: str, result: dict[str, Any], path: str | None = None) -> Path:
    """Write a result with its provenance; to minivllm/bench/results/NAME.json unless `path` says otherwise."""
    target = Path(path) if path else RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"benchmark": name, **provenance(), **result}, indent=2) + "\n")
    return target


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
