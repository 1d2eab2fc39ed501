"""The small models that ship with minivllm, and everything that makes them: data, training, evaluation.

This module only knows where the models lie; it imports no torch. `python -m minivllm.zoo.train` makes the
models again from nothing, `python -m minivllm.zoo.medusa` the heads that draft for one, and
`python -m minivllm.zoo.evaluate` measures them.
"""

from pathlib import Path

_MODELS = Path(__file__).parent / "models"


def names() -> list[str]:
    """Names of the models that ship with the package, sorted."""
    return sorted(folder.parent.name for folder in _MODELS.glob("*/config.json"))


def path(name: str) -> Path:
    """Folder of a shipped model (Hugging Face layout: config.json, model.safetensors, tokenizer.json).

    Raises:
        ValueError: no model of that name ships; the sentence lists those that do.
    """
    if name not in names():
        raise ValueError(f"no model named {name!r} ships with minivllm; choose one of {', '.join(names())}")
    return _MODELS / name
