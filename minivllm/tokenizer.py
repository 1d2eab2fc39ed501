"""Loading a tokenizer: the field's own (transformers), with our sentences when there is none.

A plain folder's is read without transformers, whose import takes seconds (fast_tokenizer.py); it does the same.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from minivllm import fast_tokenizer
from minivllm.config import EngineConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def load_tokenizer(path: str, config: EngineConfig) -> Any | None:
    """The tokenizer of a folder or hub id; None for a local folder without one (token ids in, token ids out).

    Raises:
        ValueError: the tokenizer was named by the user and there is none, or its files make no sense.
    """
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in TOKENIZER_FILES):
        if config.tokenizer is not None:
            raise ValueError(f"tokenizer folder {path!r} holds none of {', '.join(TOKENIZER_FILES)}")
        return None
    load = partial(_load_with_transformers, path, config)
    return fast_tokenizer.read(folder, load) or load()


def _load_with_transformers(path: str, config: EngineConfig) -> Any:
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        return AutoTokenizer.from_pretrained(
            path,
            revision=config.revision,
            cache_dir=config.download_dir,
            trust_remote_code=config.trust_remote_code,
        )
    except (
        Exception
    ) as error:  # another library reads a stranger's files, and has no one name for what is wrong
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(
            f"the tokenizer of {path} cannot be loaded ({type(error).__name__}: {reason}); download its files again."
        ) from error
