"""Every field of SamplingParams: what it accepts, what it becomes, and that a mistake is a sentence with its name."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.sampling_params import RequestOutputKind, SamplingParams

NAN, INF, HUGE = math.nan, math.inf, 10**400
NOT_NUMBERS = [NAN, INF, -INF, HUGE, -HUGE, True, "1", None, [1], 1j]
NOT_INTEGERS = [1.0, 1.5, NAN, INF, True, False, "1", [1], 2**63, HUGE, 10**5000, -HUGE]
NOT_TOKEN_IDS = [
    0,
    5,
    "",
    "5",
    b"5",
    bytearray(b"5"),
    {1},
    {1: 2},
    [True],
    [1.0],
    ["1"],
    [-1],
    [2**63],
    [None],
    [[1]],
]
NOT_STRINGS = [
    0,
    5,
    b"x",
    {"x"},
    {"x": 1},
    [b"x"],
    [5],
    [None],
    ["x", 5],
    [["x"]],
    iter(["x"]),
    [10**5000],
    False,
]

WRONG = {
    "n": [*NOT_INTEGERS, None, 0, -1, 16385],
    "presence_penalty": [*NOT_NUMBERS, -2.01, 2.01],
    "frequency_penalty": [*NOT_NUMBERS, -2.01, 2.01],
    "repetition_penalty": [*NOT_NUMBERS, 0, 0.0, -1],
    "temperature": [*NOT_NUMBERS, -0.01, 2.01, -1e-300],
    "top_p": [*NOT_NUMBERS, 0, 0.0, -0.1, 1.01],
    "top_k": [*NOT_INTEGERS, None, -2],
    "min_p": [*NOT_NUMBERS, -0.1, 1.01],
    "seed": [*NOT_INTEGERS, -(2**63) - 1],
    "stop": ["", [""], ["x", ""], *NOT_STRINGS],
    "stop_token_ids": NOT_TOKEN_IDS,
    "ignore_eos": [1, 0, "yes", None],
    "max_tokens": [*NOT_INTEGERS, 0, -1],
    "min_tokens": [*NOT_INTEGERS, None, -1, 17],  # 17 is more than max_tokens is by default
    "logprobs": [*NOT_INTEGERS, -2],
    "prompt_logprobs": [*NOT_INTEGERS, -2],
    "detokenize": [1, "no", None],
    "skip_special_tokens": [1, "no", None],
    "spaces_between_special_tokens": [1, "no", None],
    "include_stop_str_in_output": [1, "no", None],
    "logit_bias": [
        [],
        [1],
        "x",
        5,
        {"1": 1.0},
        {-1: 1.0},
        {True: 1.0},
        {2**63: 1.0},
        *({1: v} for v in NOT_NUMBERS),
    ],
    "allowed_token_ids": [[], (), *NOT_TOKEN_IDS],
    "bad_words": ["x", "", [""], *NOT_STRINGS],
    "structured_outputs": [{}, {"regex": "x"}, "x", 5, [], True],
    "truncate_prompt_tokens": [*NOT_INTEGERS, -2],
    "output_kind": ["DELTA", 1, None, RequestOutputKind],
    "extra_args": [5, "x", None, [("a", 1)]],
}


def test_every_field_is_tried():
    assert set(WRONG) == {f.name for f in dataclasses.fields(SamplingParams)}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name in WRONG for value in WRONG[name]], ids=lambda v: str(type(v))
)
def test_a_wrong_value_is_a_sentence_that_names_the_field(name, value):
    with pytest.raises(ValueError) as caught:
        SamplingParams(**{name: value})
    sentence = str(caught.value)
    assert name in sentence and "must" in sentence and len(sentence) < 300 and "\n" not in sentence


junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
junk |= st.lists(junk, max_size=3) | st.dictionaries(
    st.integers(-2, 5) | st.text(max_size=2), junk, max_size=3
)


@given(st.dictionaries(st.sampled_from(sorted(WRONG)), junk, max_size=3))
def test_no_combination_of_junk_gives_anything_but_a_sentence_or_usable_numbers(fields):
    try:
        params = SamplingParams(**fields)
    except ValueError as error:
        assert any(name in str(error) for name in fields)
        return
    assert (
        0 <= params.temperature <= 2
        and 0 < params.top_p <= 1
        and 0 <= params.min_p <= 1
        and params.top_k >= 0
    )
    assert params.temperature == 0 or params.temperature >= 0.01
    assert isinstance(params.stop, tuple) and isinstance(params.stop_token_ids, tuple)


@pytest.mark.parametrize(
    "given_fields, seen",
    [
        ({}, {"temperature": 1.0, "max_tokens": 16, "stop": (), "stop_token_ids": (), "seed": None, "n": 1}),
        ({"temperature": 0}, {"temperature": 0.0, "is_greedy": True}),
        ({"temperature": 9e-6}, {"temperature": 0.0, "is_greedy": True}),
        ({"temperature": 1e-5}, {"temperature": 0.01, "is_greedy": False}),
        ({"temperature": 0.005}, {"temperature": 0.01}),
        ({"temperature": 0.01}, {"temperature": 0.01}),
        ({"temperature": 2}, {"temperature": 2}),
        (
            {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.2},
            {"top_p": 1.0, "top_k": 0, "min_p": 0.0},
        ),
        ({"top_k": -1}, {"top_k": 0}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": -(2**63)}, {"seed": -(2**63)}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["x", "y", "x"]}, {"stop": ("x", "y", "x")}),
        ({"stop_token_ids": [3, 1, 3]}, {"stop_token_ids": (3, 1)}),
        ({"logit_bias": {1: 1000, 2: -1000.0, 3: 5}}, {"logit_bias": {1: 100.0, 2: -100.0, 3: 5.0}}),
        ({"max_tokens": None, "min_tokens": 10**6}, {"max_tokens": None, "min_tokens": 10**6}),
        ({"n": 16384}, {"n": 16384}),
        ({"top_p": 1e-300}, {"top_p": 1e-300}),
    ],
)
def test_what_is_accepted_and_what_it_becomes(given_fields, seen):
    params = SamplingParams(**given_fields)
    assert {name: getattr(params, name) for name in seen} == seen


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"n": 2, "temperature": 0}, "n must be 1 with greedy sampling"),
        ({"min_tokens": 5, "max_tokens": 4}, r"min_tokens \(5\) must not exceed max_tokens \(4\)"),
        ({"stop": ["x"], "detokenize": False}, "stop strings need detokenize=True"),
    ],
)
def test_fields_that_contradict_each_other(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        SamplingParams(**fields)


def test_a_copy_of_another_output_kind_keeps_everything_else():
    params = SamplingParams(
        temperature=0.5, seed=7, stop=["x"], stop_token_ids=[2], top_k=-1, logit_bias={1: 500}
    )
    copy = params.with_output_kind(RequestOutputKind.DELTA)
    assert copy == dataclasses.replace(params, output_kind=RequestOutputKind.DELTA)
    assert {**vars(copy), "output_kind": params.output_kind} == vars(params)


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 0.0
