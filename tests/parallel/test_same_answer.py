"""Divided in any way, every family says what it says in one process, and all ranks agree about it."""

from __future__ import annotations

import math

import pytest

from minivllm import SamplingParams
from minivllm.sampling_params import BeamSearchParams, StructuredOutputsParams

MAX_LOGPROB_DIFFERENCE = 1e-3  # sums over ranks are taken in another order; seen: below 1e-5

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
PLANS = {
    "tp1": {"distributed_executor_backend": "mp"},
    "tp2": {"tensor_parallel_size": 2},
    "tp4": {"tensor_parallel_size": 4},
    "pp2": {"pipeline_parallel_size": 2},
    "tp2-pp2": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    "dp2": {"data_parallel_size": 2},
}


def assert_same(said, expected):
    for ours, theirs in zip(said, expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.finish_reason == theirs.finish_reason == "length"
        for mine, other in zip(ours.logprobs or (), theirs.logprobs or (), strict=True):
            assert mine.keys() == other.keys()
            for token_id, entry in mine.items():
                difference = abs(entry.logprob - other[token_id].logprob)
                assert difference < MAX_LOGPROB_DIFFERENCE or math.isinf(entry.logprob)


def assert_idle(llm):
    stats = llm.llm_engine.stats()
    assert stats.num_running_reqs == stats.num_waiting_reqs == 0
    assert stats.kv_cache_usage == 0


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_the_same(family, plan, models, expected, make_llm, ask):
    llm = make_llm(models[family], **PLANS[plan])
    assert_same(ask(llm), expected[family])
    assert_idle(llm)


@pytest.mark.parametrize(
    "sizes",
    [{"pipeline_parallel_size": 3}, {"data_parallel_size": 2, "tensor_parallel_size": 2}],
    ids=["pp3", "dp2-tp2"],
)
def test_other_plans(sizes, models, expected, make_llm, ask):
    llm = make_llm(models["qwen3"], **sizes)
    assert_same(ask(llm), expected["qwen3"])
    assert_idle(llm)


def test_the_requests_are_more_than_the_cache_holds(models, make_llm, ask):
    """Otherwise the tests above would show nothing about preemption."""
    llm = make_llm(models["llama"])
    ask(llm)
    assert llm.llm_engine.stats().num_preemptions > 0


@pytest.mark.parametrize(
    "sizes", [{}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}], ids=["mp", "tp2-pp2"]
)
def test_everything_else_that_a_step_carries(sizes, models, make_llm):
    """Forks, beams, copies, swapped blocks, log-probabilities of prompts and penalties, against one process."""
    swapping = {"preemption_mode": "swap", "swap_space": 0.001, "num_gpu_blocks_override": 18}
    prompts = [[1, 2, 3, 4, 5] * 2, [7] * 9]
    choices = SamplingParams(n=3, seed=1, max_tokens=10, repetition_penalty=1.2, prompt_logprobs=0)
    beams = BeamSearchParams(beam_width=3, max_tokens=8)

    def said(**more):
        llm = make_llm(models["llama"], **swapping | more)
        sampled = llm.generate(prompts, choices, use_tqdm=False)
        searched = llm.beam_search(prompts[:1], beams)
        assert llm.llm_engine.stats().num_preemptions > 0
        prompt_logprobs = [
            entry.logprob
            for output in sampled
            for place in output.prompt_logprobs[1:]
            for entry in place.values()
        ]
        return [
            [one.token_ids for one in output.outputs] for output in [*sampled, *searched]
        ], prompt_logprobs

    tokens, logprobs = said(distributed_executor_backend="mp", **sizes)
    expected_tokens, expected_logprobs = said()
    assert tokens == expected_tokens
    assert logprobs == pytest.approx(expected_logprobs, abs=MAX_LOGPROB_DIFFERENCE)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
STORED = {
    "int8": {"quantization": "int8_per_channel_weight_only"},
    "fp8": {"quantization": "fp8"},
    "fp8-cache": {"kv_cache_dtype": "fp8"},
    # random words and scales; both halves of 128 are whole groups
    "awq": {
        "load_format": "dummy",
        "hf_overrides": {"quantization_config": AWQ, "intermediate_size": 128},
    },
}


@pytest.mark.parametrize("stored", STORED)
def test_however_the_numbers_are_stored(stored, models, make_llm):
    """A rank quantizes its own share, and finds the scales that one process finds for the whole matrix."""

    def said(**sizes):
        llm = make_llm(models["llama"], **STORED[stored] | sizes)
        params = SamplingParams(temperature=0, max_tokens=8, prompt_logprobs=0)
        outputs = llm.generate([[1, 2, 3, 4, 5] * 3, [9, 8, 7]], params, use_tqdm=False)
        logprobs = [
            entry.logprob
            for output in outputs
            for place in output.prompt_logprobs[1:]
            for entry in place.values()
        ]
        return [output.outputs[0].token_ids for output in outputs], logprobs

    tokens, logprobs = said(tensor_parallel_size=2, pipeline_parallel_size=2)
    expected_tokens, expected_logprobs = said()
    assert tokens == expected_tokens
    assert logprobs == pytest.approx(expected_logprobs, abs=MAX_LOGPROB_DIFFERENCE)


def test_drafts_and_grammars_reach_every_rank(make_llm):
    """The course's own model, which has a tokenizer: a grammar speaks of text."""
    choice = StructuredOutputsParams(choice=["a block table", "a free list"])
    params = [
        SamplingParams(temperature=0, max_tokens=24),
        SamplingParams(temperature=1, seed=3, max_tokens=24, structured_outputs=choice),
    ]

    def said(**sizes):
        llm = make_llm("tutor", **sizes, max_model_len=96, num_gpu_blocks_override=60)
        outputs = llm.generate(["one two three one two three one two", "It is"], params, use_tqdm=False)
        return [output.outputs[0].text for output in outputs], llm.llm_engine.stats().num_drafts

    drafting = {
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}
    }
    expected, _ = said()
    assert expected[1] in choice.choice
    texts, num_drafts = said(tensor_parallel_size=2, **drafting)
    assert texts == expected and num_drafts > 0
    texts, _ = said(tensor_parallel_size=2, pipeline_parallel_size=2)
    assert texts == expected
