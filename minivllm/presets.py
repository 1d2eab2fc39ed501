"""Three sets of limits for three kinds of work: `LLM(model, preset="low-latency")`, or `--preset low-latency`.

What is given beside a preset wins over it. Fewer requests in a step and fewer tokens in a step mean shorter steps, so
that a single answer comes sooner; more of both mean fuller batches, so that more tokens come out in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minivllm.config import EngineConfig, load_model_config

PRESETS: dict[str, dict[str, Any]] = {
    "general": {
        "gpu_memory_utilization": 0.9,
        "max_model_len": 4096,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
    },
    "low-latency": {
        "gpu_memory_utilization": 0.85,
        "max_model_len": 2048,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
    },
    "high-throughput": {
        "gpu_memory_utilization": 0.95,
        "max_model_len": 8192,
        "max_num_seqs": 512,
        "max_num_batched_tokens": 16384,
    },
}


def preset_arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of EngineConfig: those of the preset, under the ones that are `given`.

    The context of a preset is cut to what the model can read; one that was typed is not, and may be refused.

    Raises:
        ValueError: there is no such preset, or no such model.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}")
    merged = {**PRESETS[name], **given}
    if "max_model_len" not in given:
        plain = EngineConfig(**{key: value for key, value in merged.items() if key != "max_model_len"})
        longest = load_model_config(plain).max_position_embeddings
        merged["max_model_len"] = min(merged["max_model_len"], longest)
    return merged
