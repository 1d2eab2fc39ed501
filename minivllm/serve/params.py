"""From request fields to the engine's parameters: sampling, beam search, and the form that an answer must have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minivllm.sampling_params import (
    BeamSearchParams,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from minivllm.serve.protocol import SamplingFields, StructuredOutputs

_PASSED_ON = (
    *("n", "temperature", "top_p", "top_k", "min_p", "seed", "min_tokens", "prompt_logprobs"),
    *("stop", "stop_token_ids", "ignore_eos", "bad_words", "logit_bias", "allowed_token_ids"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens"),
)
# What a beam search does not look at; a request that sets one of these expects an answer that it would not get.
_NOT_WITH_BEAMS = (
    *(
        "stream",
        "logprobs",
        "prompt_logprobs",
        "stop",
        "stop_token_ids",
        "min_tokens",
        "top_p",
        "top_k",
        "min_p",
    ),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "allowed_token_ids"),
    *("bad_words", "temperature", "response_format", "structured_outputs", "tools"),
)
_NEUTRAL: dict[str, Any] = {
    "top_p": 1,
    "repetition_penalty": 1,
    "top_k": -1,
}  # those whose neutral value is not falsy


def sampling_params(
    request: SamplingFields,
    defaults: Mapping[str, Any],
    max_tokens: int,
    logprobs: int | None,
    form: StructuredOutputsParams | None,
) -> SamplingParams:
    """The request's own values over the model's recommendation over the defaults of SamplingParams.

    Raises:
        ValueError: a value is out of range; one sentence that begins with the field.
    """
    own = {name: getattr(request, name) for name in _PASSED_ON if getattr(request, name) is not None}
    kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
    return SamplingParams(
        **{**defaults, **own},
        max_tokens=max_tokens,
        logprobs=logprobs,
        structured_outputs=form,
        output_kind=kind,
    )


def beam_search_params(request: SamplingFields, max_tokens: int) -> BeamSearchParams:
    """With `use_beam_search`, n is the number of beams.

    Raises:
        ValueError: a field is set that beam search does not look at, or a value is out of range.
    """
    for name in _NOT_WITH_BEAMS:
        value = getattr(request, name, None)
        if value and value != _NEUTRAL.get(name):
            raise ValueError(f"{name} cannot be combined with use_beam_search: leave it out")
    return BeamSearchParams(
        beam_width=1 if request.n is None else request.n,
        max_tokens=max_tokens,
        ignore_eos=bool(request.ignore_eos),
        length_penalty=1.0 if request.length_penalty is None else request.length_penalty,
    )


def form_of(request: SamplingFields) -> StructuredOutputsParams | None:
    """What response_format or structured_outputs asks for; None if neither does.

    Raises:
        ValueError: both do, or the form is none.
    """
    wanted = request.response_format
    if wanted is not None and wanted.type == "text":
        wanted = None
    if wanted is None:
        return None if request.structured_outputs is None else _vllm_form(request.structured_outputs)
    if request.structured_outputs is not None:
        raise ValueError("response_format and structured_outputs both ask for a form: send one of them")
    if wanted.json_schema is None:
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=wanted.json_schema.json_schema)


def _vllm_form(wanted: StructuredOutputs) -> StructuredOutputsParams:
    return StructuredOutputsParams(
        json=wanted.json_schema,
        regex=wanted.regex,
        choice=wanted.choice,
        grammar=wanted.grammar,
        json_object=wanted.json_object,
    )
