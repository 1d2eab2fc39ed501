"""Flags of vLLM, today's and older ones, that need an answer: an alias, a warning, or a sentence that says no."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from minivllm import vllm_arguments
from minivllm.config import EngineConfig
from minivllm.vllm_arguments import REFUSED, SPECULATION, WITHOUT_EFFECT


class _Note(argparse.Action):
    """Warns that the flag has no effect."""

    def __init__(self, option_strings: Sequence[str], dest: str, **keywords: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **keywords)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Print the warning."""
        print(f"minivllm.serve: {option_string} has no effect: {WITHOUT_EFFECT[self.dest]}.", file=sys.stderr)


def add_old_spellings(parser: argparse.ArgumentParser) -> None:
    """Accept flags that do nothing here, with a warning, and the short way to ask for speculation."""
    for name in WITHOUT_EFFECT:
        parser.add_argument(flag_of(name), action=_Note, help=argparse.SUPPRESS)
    for name in SPECULATION:
        kind = int if name == "spec_tokens" else str
        parser.add_argument(flag_of(name), type=kind, help=argparse.SUPPRESS)


def add_refused_flags(parser: argparse.ArgumentParser) -> None:
    """Know the flags that are not served, so that they get a sentence."""
    for name in refused_names():
        parser.add_argument(flag_of(name), nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def refused_names() -> list[str]:
    """Those that are not a field of EngineConfig: what the engine learns is no longer refused."""
    served = {field.name for field in fields(EngineConfig)}
    return [name for name in REFUSED if name not in served]


def check_refused(arguments: Mapping[str, Any]) -> None:
    """Raises ValueError for a flag that is not served, unless its value changes nothing."""
    for name in refused_names():
        if name in arguments:
            vllm_arguments.check_refused(name, flag_of(name), _value(arguments[name]))


def flag_of(name: str) -> str:
    """enable_lora -> --enable-lora"""
    return f"--{name.replace('_', '-')}"


def _value(words: Sequence[str]) -> Any:
    """What stood behind a flag: True for nothing, a number where it is one."""
    if not words:
        return True
    try:
        return json.loads(words[0]) if len(words) == 1 else list(words)
    except ValueError:
        return words[0]
