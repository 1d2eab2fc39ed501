"""From a training checkpoint to a Hugging Face folder: config, bfloat16 weights, tokenizer, generation config.

`python -m minivllm.zoo.export CHECKPOINT FOLDER --model tutor`. transformers and every engine that reads its layout can
load the folder.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from minivllm.zoo.recipes import RECIPES, Recipe
from minivllm.zoo.tokenizer import END_ID, END_OF_TEXT_ID


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def export(checkpoint: Path, folder: Path, recipe: Recipe) -> None:
    """Write the model of `checkpoint` to `folder`; a README.md that is there stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(checkpoint / "weights.safetensors")
    rounded = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    _write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_sliding_window": False,
            **recipe.hf_config(),
        },
    )
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": [END_ID, END_OF_TEXT_ID], "pad_token_id": END_OF_TEXT_ID, "do_sample": False},
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(checkpoint / name, folder / name)


def main() -> None:
    """Export one checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.zoo.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=sorted(RECIPES), default="tutor")
    args = parser.parse_args()
    export(args.checkpoint, args.folder, RECIPES[args.model])


if __name__ == "__main__":
    main()
