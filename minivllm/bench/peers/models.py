"""The models of the comparison: random weights in the shape of real ones, for the clock and not for their text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from minivllm.config import resolve_model

SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "tiny": (
        "float32",
        {
            "vocab_size": 2048,
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "intermediate_size": 768,
        },
    ),
    "q06": (  # of Qwen3-0.6B
        "bfloat16",
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
        },
    ),
}


def make(name: str, folder: Path) -> Path:
    """The model's folder inside `folder`; it is made the first time, with a tokenizer that nobody will use."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    target = folder / name
    if (target / "tokenizer.json").exists():
        return target
    dtype, shape = SHAPES[name]
    fields: dict[str, Any] = {
        **shape,
        "dtype": dtype,
        "max_position_embeddings": 4096,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    config = Qwen3Config(**fields)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    network.save_pretrained(target)
    for file in ("tokenizer_config.json", "tokenizer.json"):
        shutil.copy(Path(resolve_model("tutor")) / file, target / file)
    return target
