"""Flags of vLLM, today's and older ones, that need an answer: an alias, a warning, or a sentence that says no."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from minivllm.config import EngineConfig

# flag -> what to say; nothing else happens
_WITHOUT_EFFECT = {
    "enable-metrics": "metrics are always served, at /metrics",
    "disable-log-requests": "requests are logged only with --enable-log-requests",
    "disable-log-stats": "statistics are served at /metrics, not logged",
    "use-v2-block-manager": "there is one block manager",
    "verbose": "use --log-level debug",
}

# flag -> (the one value that changes nothing, why others are refused)
_REFUSED: dict[str, tuple[str | None, str]] = {
    "enable-expert-parallel": (None, "no model with experts is served"),
    "kv-cache-dtype": ("auto", "the KV cache has the model's dtype"),
    "cpu-offload-gb": ("0", "the whole model stays on one device"),
    "enable-lora": (None, "LoRA adapters are not served"),
    "lora-modules": (None, "LoRA adapters are not served"),
    "max-loras": ("1", "LoRA adapters are not served"),
    "max-lora-rank": ("16", "LoRA adapters are not served"),
    "limit-mm-per-prompt": (None, "this server reads and writes text only"),
    "allowed-local-media-path": (None, "this server reads and writes text only"),
    "tokenizer-mode": ("auto", "the tokenizer is the Hugging Face one"),
    "runner": ("auto", "one server answers both completions and embeddings"),
    "convert": ("auto", "one server answers both completions and embeddings"),
    "task": ("generate", "one server answers both completions and embeddings"),
    "download-dir": (None, "set HF_HOME to choose where the hub's files lie"),
    "generation-config": ("auto", "the model's own generation_config.json is used"),
    "max-num-queued-tokens": (None, "use --max-num-queued-reqs"),
    "trust-request-chat-template": (None, "a template from a request is never run"),
}


class _Note(argparse.Action):
    """Warns that the flag has no effect."""

    def __init__(self, option_strings: Sequence[str], dest: str, **keywords: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **keywords)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Print the warning."""
        flag = (option_string or "").removeprefix("--")
        print(f"minivllm.serve: --{flag} has no effect: {_WITHOUT_EFFECT[flag]}.", file=sys.stderr)


def add_old_spellings(parser: argparse.ArgumentParser) -> None:
    """Accept flags that do nothing here, with a warning."""
    for flag in _WITHOUT_EFFECT:
        parser.add_argument(f"--{flag}", action=_Note, help=argparse.SUPPRESS)


def add_refused_flags(parser: argparse.ArgumentParser) -> None:
    """Know the flags that are not served, so that they get a sentence."""
    for flag in refused_flags():
        keywords = {"nargs": "*", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        parser.add_argument(f"--{flag}", **keywords)  # type: ignore[arg-type]


def refused_flags() -> dict[str, tuple[str | None, str]]:
    """Those that are not a field of EngineConfig: what the engine learns is no longer refused."""
    served = {field.name.replace("_", "-") for field in fields(EngineConfig)}
    return {flag: answer for flag, answer in _REFUSED.items() if flag not in served}


def check_refused(arguments: dict[str, Any]) -> None:
    """Raises ValueError for a flag that is not served, unless its value changes nothing."""
    for flag, (harmless, why) in refused_flags().items():
        values = arguments.get(flag.replace("-", "_"))
        if values is not None and values != [harmless]:
            raise ValueError(f"--{flag} is not served: {why}")
