"""SpeculativeConfig: who drafts tokens ahead of the model, how many, and how much it may cost when they are wrong.

The keys are those of vLLM's `--speculative-config`; `max_rejected_per_token` is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

METHODS = ("ngram", "draft_model", "medusa")
MAX_SPECULATIVE_TOKENS = 64
LOOKUP_LENGTH = 5  # tokens, where neither prompt_lookup_min nor prompt_lookup_max is given: vLLM's choice


@dataclass(frozen=True)
class SpeculativeConfig:
    """How tokens are drafted.

    Raises:
        ValueError: a field is out of range, or does not go with the method.
    """

    num_speculative_tokens: int  # drafts in one step of a request, at most
    method: str | None = None  # None = draft_model where there is a model
    model: str | None = None  # of draft_model and medusa: a shipped model's name, a folder, or a hub id
    prompt_lookup_min: int | None = None  # of ngram: the last tokens that must have occurred before, at least
    prompt_lookup_max: int | None = None  # and at most: the longest match is looked for first
    max_rejected_per_token: float | None = None  # None = no limit; see spec_decode/draft_length.py

    def __post_init__(self) -> None:
        method = self.method or ("draft_model" if self.model else None)
        if method not in METHODS:
            raise ValueError(
                f"speculative_config.method must be one of {', '.join(METHODS)}, not {self.method!r}"
            )
        object.__setattr__(self, "method", method)
        _check_count("num_speculative_tokens", self.num_speculative_tokens, MAX_SPECULATIVE_TOKENS)
        if method == "ngram":
            self._resolve_lookup()
        else:
            self._check_model(method)
        limit = self.max_rejected_per_token
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit <= 1e6
        ):
            raise ValueError(
                f"speculative_config.max_rejected_per_token must be a number above 0, not {limit!r}"
            )

    def _resolve_lookup(self) -> None:
        if self.model is not None:
            raise ValueError(
                "speculative_config.model is for methods draft_model and medusa; ngram looks drafts up in the request"
            )
        least, most = self.prompt_lookup_min, self.prompt_lookup_max
        least, most = least or most or LOOKUP_LENGTH, most or least or LOOKUP_LENGTH
        for name, given in (
            ("prompt_lookup_min", self.prompt_lookup_min),
            ("prompt_lookup_max", self.prompt_lookup_max),
        ):
            if given is not None:
                _check_count(name, given)
        if least > most:
            raise ValueError(
                f"speculative_config.prompt_lookup_min ({least}) must not exceed prompt_lookup_max ({most})"
            )
        object.__setattr__(self, "prompt_lookup_min", least)
        object.__setattr__(self, "prompt_lookup_max", most)

    def _check_model(self, method: str) -> None:
        if not isinstance(self.model, str) or not self.model:
            what = "heads" if method == "medusa" else "draft model"
            raise ValueError(f"speculative_config.model must name the {what} when method is {method}")
        if self.prompt_lookup_min is not None or self.prompt_lookup_max is not None:
            raise ValueError(
                "speculative_config.prompt_lookup_min and prompt_lookup_max are for method ngram"
            )


def read_speculative_config(
    given: Mapping[str, Any] | str | None, model: str | None, num_tokens: int | None
) -> SpeculativeConfig | None:
    """What the user asked for, in either way; None = no speculation.

    Args:
        given: `speculative_config`: a dict, or the same as JSON.
        model: `speculative_model`, the older way; "[ngram]" or "ngram" stand for the method.
        num_tokens: `num_speculative_tokens`, the older way.

    Raises:
        ValueError: malformed, or asked for in both ways.
    """
    if given is None:
        return _from_older_names(model, num_tokens)
    if model is not None or num_tokens is not None:
        raise ValueError(
            "speculative_config says it all: leave out speculative_model and num_speculative_tokens"
        )
    value = _parse(given) if isinstance(given, str) else given
    if not isinstance(value, Mapping):
        raise ValueError(f"speculative_config must be a dict, or one as JSON, not {given!r:.100}")
    known = [field.name for field in fields(SpeculativeConfig)]
    unknown = sorted(set(value) - set(known), key=str)
    if unknown:
        raise ValueError(f"speculative_config has an unknown key {unknown[0]!r}; it knows {', '.join(known)}")
    if "num_speculative_tokens" not in value:
        raise ValueError("speculative_config must have num_speculative_tokens, how many to draft in a step")
    return SpeculativeConfig(**value)


def _from_older_names(model: str | None, num_tokens: int | None) -> SpeculativeConfig | None:
    if model is None and num_tokens is None:
        return None
    if model is None or num_tokens is None:
        missing = "speculative_model" if model is None else "num_speculative_tokens"
        raise ValueError(
            f"{missing} must be given, too: speculative_model and num_speculative_tokens go together"
        )
    if model in ("ngram", "[ngram]"):
        return SpeculativeConfig(num_tokens, "ngram")
    return SpeculativeConfig(num_tokens, "draft_model", model)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"speculative_config must be a dict, or one as JSON: {error}") from None


def _check_count(name: str, value: Any, most: int | None = None) -> None:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < 1 or (most is not None and value > most):
        limits = "at least 1" if most is None else f"in [1, {most}]"
        raise ValueError(f"speculative_config.{name} must be an integer {limits}, not {value!r}")
