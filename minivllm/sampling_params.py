"""How the next token is chosen and when to stop: vLLM's fields, defaults and ranges, checked on construction.

Every field is checked here once, so that nothing behind this door meets a NaN, a bool posing as a number, or a value
out of range. What depends on the model (ids inside the vocabulary, room in the context) is checked by
`LLMEngine.add_request`.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

GREEDY_EPSILON = 1e-5  # a temperature below this means greedy
MIN_TEMPERATURE = 1e-2  # a smaller one (that is not greedy) is raised to this: dividing by less overflows
MAX_N = 16384
MAX_INT64 = 2**63 - 1
_FROM_GENERATION_CONFIG = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
SWITCHES = (
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
)


class RequestOutputKind(enum.Enum):
    """What each RequestOutput carries: all so far, only what is new, or one output at the end."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(frozen=True)
class StructuredOutputsParams:
    """The form that an output must have: exactly one of the fields.

    Raises:
        ValueError: none or several are set, or one is of the wrong type.
    """

    json: str | Mapping[str, Any] | None = None  # a JSON schema
    regex: str | None = None
    choice: Sequence[str] | None = None  # one of these texts
    grammar: str | None = None  # in Lark's syntax
    json_object: bool | None = None  # any JSON object

    def __post_init__(self) -> None:
        if not isinstance(self.json_object, (bool, type(None))):
            raise ValueError(
                f"structured_outputs.json_object must be True or left out, not {_show(self.json_object)}"
            )
        names = ("json", "regex", "choice", "grammar")
        given = [name for name in names if getattr(self, name) is not None] + ["json_object"] * bool(
            self.json_object
        )
        if len(given) != 1:
            raise ValueError(
                f"structured_outputs needs exactly one of {', '.join(names)}, json_object; "
                f"it has {', '.join(given) or 'none'}"
            )
        for name in ("regex", "grammar"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ValueError(
                    f"structured_outputs.{name} must be a string, not {_show(getattr(self, name))}"
                )
        if not isinstance(self.json, (str, Mapping, type(None))):
            raise ValueError(f"structured_outputs.json must be a JSON schema, not {_show(self.json)}")
        if self.choice is not None:
            object.__setattr__(self, "choice", _strings("structured_outputs.choice", self.choice))
            if not self.choice or "" in self.choice:
                raise ValueError("structured_outputs.choice must be a list of non-empty strings")

    @property
    def kind(self) -> str:
        """The name of the field that is set."""
        return next(
            name for name in ("json", "regex", "choice", "grammar", "json_object") if getattr(self, name)
        )


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one request.

    Raises:
        ValueError: a field is of the wrong type or out of range; the message names the field and the range.
    """

    n: int = 1  # continuations of one prompt, 1..16384
    presence_penalty: float = 0.0  # [-2, 2], once for each token that was generated
    frequency_penalty: float = 0.0  # [-2, 2], times how often it was generated
    repetition_penalty: float = 1.0  # > 0, divides or multiplies the logits of tokens in prompt or output
    temperature: float = 1.0  # [0, 2]; 0 = greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 or -1 = all
    min_p: float = 0.0  # [0, 1], relative to the most likely token
    seed: int | None = None  # same seed, same prompt: same tokens, whatever else is running
    stop: Sequence[str] | str | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16  # None = to the end of the context
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    structured_outputs: StructuredOutputsParams | None = None
    truncate_prompt_tokens: int | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    extra_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_limits()
        self._check_switches()
        self._check_lists()
        if self.is_greedy:
            if self.n > 1:
                raise ValueError(
                    f"n must be 1 with greedy sampling (temperature 0): all {self.n} outputs would be equal"
                )
            self._set(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
        elif self.temperature < MIN_TEMPERATURE:
            self._set(temperature=MIN_TEMPERATURE)

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_EPSILON

    @property
    def is_plain_greedy(self) -> bool:
        """Is every token simply the most likely one, whatever came before it?"""
        is_penalized = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1
        is_restricted = self.min_tokens or self.allowed_token_ids is not None or self.bad_words
        return self.is_greedy and not (is_penalized or is_restricted or self.logit_bias)

    def with_output_kind(self, kind: RequestOutputKind) -> SamplingParams:
        other = copy(self)  # `replace` would check every field again
        other._set(output_kind=kind)
        return other

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_numbers(self) -> None:
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        _number("repetition_penalty", self.repetition_penalty, 0, math.inf, low_open=True)
        _number("temperature", self.temperature, 0, 2)
        _number("top_p", self.top_p, 0, 1, low_open=True)
        _number("min_p", self.min_p, 0, 1)
        _integer("n", self.n, 1, MAX_N)
        _integer("top_k", self.top_k, -1, MAX_INT64)
        if self.top_k == -1:
            self._set(top_k=0)
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), MAX_INT64)
            if self.seed == -1:
                self._set(seed=None)

    def _check_limits(self) -> None:
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, MAX_INT64)
        _integer("min_tokens", self.min_tokens, 0, MAX_INT64)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})")
        for name in ("logprobs", "prompt_logprobs", "truncate_prompt_tokens"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), -1, MAX_INT64)

    def _check_switches(self) -> None:
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {_show(getattr(self, name))}")
        if not isinstance(self.output_kind, RequestOutputKind):
            raise ValueError(f"output_kind must be a RequestOutputKind, not {_show(self.output_kind)}")
        self._check_structured_outputs()
        if not isinstance(self.extra_args, Mapping):
            raise ValueError(f"extra_args must be a dict, not {_show(self.extra_args)}")

    def _check_structured_outputs(self) -> None:
        """Other fields that forbid tokens could leave none that the grammar allows."""
        if self.structured_outputs is None:
            return
        if not isinstance(self.structured_outputs, StructuredOutputsParams):
            raise ValueError("structured_outputs must be a StructuredOutputsParams")
        for name, off in (("min_tokens", 0), ("allowed_token_ids", None), ("bad_words", None)):
            if getattr(self, name) != off:
                raise ValueError(
                    f"{name} cannot be combined with structured_outputs: together they may allow no token"
                )

    def _check_lists(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else _strings("stop", self.stop)
        if "" in stop:
            raise ValueError("stop must not be an empty string: every text would end at once")
        if stop and not self.detokenize:
            raise ValueError("stop strings need detokenize=True: they are looked for in the text")
        self._set(stop=stop, stop_token_ids=_token_ids("stop_token_ids", self.stop_token_ids))
        if self.allowed_token_ids is not None:
            self._set(allowed_token_ids=_token_ids("allowed_token_ids", self.allowed_token_ids))
            if not self.allowed_token_ids:
                raise ValueError("allowed_token_ids must not be empty: leave it out to allow every token")
        if self.bad_words is not None:
            self._set(bad_words=_strings("bad_words", self.bad_words))
            if "" in self.bad_words:
                raise ValueError("bad_words must not hold an empty string")
        if self.logit_bias is not None:
            self._set(logit_bias=_logit_bias(self.logit_bias))


@dataclass(frozen=True)
class BeamSearchParams:
    """Parameters of a beam search; vLLM's fields.

    Raises:
        ValueError: a field is of the wrong type or out of range.
    """

    beam_width: int
    max_tokens: int = 16
    ignore_eos: bool = False
    length_penalty: float = 1.0  # > 1 prefers longer continuations, < 1 shorter ones

    def __post_init__(self) -> None:
        _integer("beam_width", self.beam_width, 1, MAX_N)
        _integer("max_tokens", self.max_tokens, 1, MAX_INT64)
        _number("length_penalty", self.length_penalty, -100, 100)
        if not isinstance(self.ignore_eos, bool):
            raise ValueError(f"ignore_eos must be True or False, not {_show(self.ignore_eos)}")


def _number(name: str, value: Any, low: float, high: float, *, low_open: bool = False) -> None:
    """Raise unless `value` is a finite number in [low, high], or (low, high] with `low_open`."""
    inside = isinstance(value, (int, float)) and not isinstance(value, bool)
    inside = (
        inside and abs(value) <= sys.float_info.max
    )  # neither infinite, nor NaN, nor an int that no float holds
    inside = inside and (low < value if low_open else low <= value) and value <= high
    if not inside:
        interval = f"{'(' if low_open else '['}{low}, {high}{')' if high == math.inf else ']'}"
        raise ValueError(f"{name} must be a finite number in {interval}, not {_show(value)}")


def _integer(name: str, value: Any, low: int, high: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        upper = f" and at most {high}" if high != MAX_INT64 or (is_integer and value > high) else ""
        raise ValueError(f"{name} must be an integer of at least {low}{upper}, not {_show(value)}")


def _token_ids(name: str, values: Any) -> tuple[int, ...]:
    """The ids without repetitions, in order; None is none."""
    if values is None:
        return ()
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Sequence):
        raise ValueError(f"{name} must be a list of token ids, not {_show(values)}")
    for value in values:
        _integer(f"every id in {name}", value, 0, MAX_INT64)
    return tuple(dict.fromkeys(values))


def _strings(name: str, values: Any) -> tuple[str, ...]:
    if values is None:
        return ()
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not all(isinstance(v, str) for v in values)
    ):
        raise ValueError(f"{name} must be a list of strings, not {_show(values)}")
    return tuple(values)


def _logit_bias(bias: Any) -> dict[int, float]:
    """Token id -> bias, each clamped to [-100, 100]."""
    if not isinstance(bias, Mapping):
        raise ValueError(f"logit_bias must map token ids to numbers, not {_show(bias)}")
    checked = {}
    for token_id, value in bias.items():
        _integer("every key of logit_bias", token_id, 0, MAX_INT64)
        _number(f"logit_bias[{token_id}]", value, -math.inf, math.inf)
        checked[token_id] = max(-100.0, min(100.0, float(value)))
    return checked


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # it holds an int of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."


def sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's generation_config.json says about sampling, as fields of SamplingParams.

    `do_sample: false` means greedy, as it does in transformers (vLLM does not read it).

    Raises:
        ValueError: a value is out of range.
    """
    given = {
        name: value for name in _FROM_GENERATION_CONFIG if (value := generation_config.get(name)) is not None
    }
    if generation_config.get("do_sample") is False:
        given["temperature"] = 0.0
    try:
        SamplingParams(**given)
    except ValueError as error:
        raise ValueError(f"generation_config.json: {error}") from error
    return given
