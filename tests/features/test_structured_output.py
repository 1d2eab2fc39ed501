"""Structured output: whatever the model would like to say, what it says has the form that was asked for."""

import json
import re
import time

import pytest

from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams, StructuredOutputsParams

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tutor():
    return LLM("tutor", num_gpu_blocks_override=200, max_model_len=512)


def texts(llm, form, seeds=range(6), **params):
    params = {"max_tokens": 120} | params
    requests = [SamplingParams(structured_outputs=form, seed=seed, **params) for seed in seeds]
    return [o.outputs[0] for o in llm.generate(["Say something."] * len(requests), requests, use_tqdm=False)]


def test_json_follows_the_schema(tutor):
    for choice in texts(tutor, StructuredOutputsParams(json=SCHEMA)):
        value = json.loads(choice.text)
        assert set(value) == {"name", "age"} and len(value["name"]) <= 6 and 0 <= value["age"] <= 99
        assert choice.finish_reason == "stop"


def test_a_regex_is_matched_whole(tutor):
    for choice in texts(tutor, StructuredOutputsParams(regex=r"[a-c]{2,4}-\d\d(x|yy)")):
        assert re.fullmatch(r"[a-c]{2,4}-\d\d(x|yy)", choice.text)


def test_one_of_the_choices_is_said(tutor):
    said = {
        c.text
        for c in texts(
            tutor, StructuredOutputsParams(choice=["yes", "no", "什么"]), range(20), temperature=2.0
        )
    }
    assert said <= {"yes", "no", "什么"} and len(said) > 1


def test_a_lark_grammar_is_followed(tutor):
    for choice in texts(
        tutor, StructuredOutputsParams(grammar='start: "<" WORD ("," WORD)~0..2 ">"\nWORD: /[ab]{1,3}/')
    ):
        assert re.fullmatch(r"<[ab]{1,3}(,[ab]{1,3}){0,2}>", choice.text)


def test_the_batch_around_it_is_left_alone_and_each_choice_walks_by_itself(tutor):
    form = StructuredOutputsParams(regex=r"[a-z]{5}")
    params = [
        SamplingParams(n=3, seed=1, max_tokens=20, structured_outputs=form),
        SamplingParams(seed=1, max_tokens=8),
    ]
    bound, free = tutor.generate(["Say something."] * 2, params, use_tqdm=False)
    assert all(re.fullmatch("[a-z]{5}", choice.text) for choice in bound.outputs)
    (alone,) = tutor.generate(["Say something."], params[1], use_tqdm=False)
    assert free.outputs[0].token_ids == alone.outputs[0].token_ids


def test_a_preempted_request_goes_on_in_its_grammar():
    llm = LLM(
        "tutor",
        num_gpu_blocks_override=12,
        block_size=4,
        max_model_len=40,
        max_num_batched_tokens=16,
        max_num_seqs=4,
    )
    for choice in texts(llm, StructuredOutputsParams(regex=r"([a-c]\d){10}"), range(4)):
        assert re.fullmatch(r"([a-c]\d){10}", choice.text)
    assert llm.llm_engine.stats().num_preemptions > 0


DEEP = "[" * 10_000
BAD = [
    ({}, "exactly one"),
    ({"regex": "a", "json": "{}"}, "exactly one"),
    ({"json": {"type": "nonsense"}}, "could not be compiled"),
    ({"json": "{"}, "not valid JSON"),
    ({"json": ""}, "must not be empty"),
    ({"json": "[1]"}, "must be a JSON schema"),
    ({"json": DEEP}, "json is n"),
    ({"json": '{"a":' * 100 + "1" + "}" * 100}, "nested more than 64"),
    ({"regex": "("}, "could not be compiled"),
    ({"regex": "a\0"}, "NUL"),
    ({"regex": ""}, "must not be empty"),
    ({"regex": "|".join(f"w{i}" for i in range(200_000))}, "100000 are allowed"),
    ({"grammar": ""}, "must not be empty"),
    ({"grammar": "not a grammar ((("}, "could not be compiled"),
    ({"choice": []}, "non-empty strings"),
    ({"choice": ["a", 1]}, "choice"),
    ({"json_object": "yes"}, "json_object"),
    ({"regex": 5}, "must be a string"),
]


@pytest.mark.parametrize("fields, complaint", BAD, ids=range(len(BAD)))
def test_a_bad_form_gets_a_sentence_and_the_engine_goes_on(tutor, fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        texts(tutor, StructuredOutputsParams(**fields))
    assert not tutor.llm_engine.has_unfinished_requests()


@pytest.mark.parametrize("regex", ["(a+)+b", "(x{1,1000}){1,1000}", "(a|aa)*c", "a{1,50000}"])
def test_no_regex_takes_long(tutor, regex):
    start = time.thread_time()
    try:
        texts(tutor, StructuredOutputsParams(regex=regex), range(1), max_tokens=3)
    except ValueError as error:
        assert "could not be compiled" in str(error)
    assert time.thread_time() - start < 5


@pytest.mark.parametrize("field", [{"min_tokens": 2}, {"allowed_token_ids": [5]}, {"bad_words": ["a"]}])
def test_what_could_leave_no_token_is_refused(field):
    with pytest.raises(ValueError, match="cannot be combined with structured_outputs"):
        SamplingParams(structured_outputs=StructuredOutputsParams(regex="a"), **field)
