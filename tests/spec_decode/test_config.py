"""What the user may write, and the sentence that everything else gets."""

import json

import pytest

from minivllm.config import EngineConfig
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams


def test_all_ways_to_say_it_are_one():
    given = {"method": "draft_model", "model": "tutor-draft", "num_speculative_tokens": 3}
    configs = [
        EngineConfig(speculative_config=given),
        EngineConfig(speculative_config=json.dumps(given)),
        EngineConfig(speculative_config={"model": "tutor-draft", "num_speculative_tokens": 3}),
        EngineConfig(speculative_model="tutor-draft", num_speculative_tokens=3),
    ]
    assert len({config.speculation for config in configs}) == 1
    assert EngineConfig().speculation is None
    ngram = EngineConfig(speculative_model="[ngram]", num_speculative_tokens=2).speculation
    assert (ngram.method, ngram.prompt_lookup_min, ngram.prompt_lookup_max) == ("ngram", 5, 5)
    one = EngineConfig(
        speculative_config={"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    )
    assert (one.speculation.prompt_lookup_min, one.speculation.prompt_lookup_max) == (3, 3)


K = {"num_speculative_tokens": 3}
BAD = [
    ({}, "must have num_speculative_tokens"),
    (K, "method must be one of ngram, draft_model, medusa"),
    ({"method": "eagle", **K}, "method must be one of ngram, draft_model, medusa, not 'eagle'"),
    ({"method": "draft_model", **K}, "model must name the draft model"),
    ({"method": "medusa", **K}, "model must name the heads when method is medusa"),
    ({"method": "ngram", "model": "tutor", **K}, "model is for methods draft_model and medusa"),
    (
        {"method": "ngram", "num_speculative_tokens": 0},
        r"num_speculative_tokens must be an integer in \[1, 64\]",
    ),
    ({"method": "ngram", "num_speculative_tokens": True}, "must be an integer"),
    (
        {"method": "ngram", "prompt_lookup_min": 4, "prompt_lookup_max": 2, **K},
        "must not exceed prompt_lookup_max",
    ),
    ({"method": "ngram", "prompt_lookup_min": 0, **K}, "prompt_lookup_min must be an integer at least 1"),
    ({"model": "tutor-draft", "prompt_lookup_min": 2, **K}, "are for method ngram"),
    ({"method": "medusa", "model": "tutor-medusa", "prompt_lookup_max": 2, **K}, "are for method ngram"),
    (
        {"method": "ngram", "max_rejected_per_token": 0, **K},
        "max_rejected_per_token must be a number above 0",
    ),
    ({"method": "ngram", "tokens": 3, **K}, "unknown key 'tokens'"),
    ("{", "must be a dict, or one as JSON"),
    ("[1]", "must be a dict"),
]


@pytest.mark.parametrize(("given", "sentence"), BAD)
def test_a_mistake_gets_a_sentence(given, sentence):
    with pytest.raises(ValueError, match=f"speculative_config.*{sentence}"):
        EngineConfig(speculative_config=given)


def test_combinations_that_are_refused():
    ngram = {"method": "ngram", **K}
    with pytest.raises(ValueError, match="leave out speculative_model"):
        EngineConfig(speculative_config=ngram, num_speculative_tokens=3)
    with pytest.raises(ValueError, match="num_speculative_tokens must be given, too"):
        EngineConfig(speculative_model="tutor-draft")
    with pytest.raises(ValueError, match="needs pipeline_parallel_size 1"):
        EngineConfig(speculative_config=ngram, pipeline_parallel_size=2)
    with pytest.raises(ValueError, match="needs tensor_parallel_size 1"):
        EngineConfig(speculative_config={"model": "tutor-draft", **K}, tensor_parallel_size=2)


def test_a_draft_model_with_another_vocabulary_is_refused(make_engine):
    with pytest.raises(ValueError, match="knows 3072 tokens, and the model 2.*same vocabulary"):
        make_engine(speculative_config={"model": "tutor-draft", **K})


@pytest.mark.parametrize("backend", ["torch", "naive"])
@pytest.mark.parametrize(("method", "model"), [("draft_model", "tutor-draft"), ("medusa", "tutor-medusa")])
def test_the_shipped_pairs(method, model, backend):
    """tutor with either drafter says what tutor says; in a text that it knows, many of the drafts are right."""
    pair = {"speculative_config": {"method": method, "model": model, **K}}
    room = {"num_gpu_blocks_override": 200, "attention_backend": backend}
    plain, speculative = LLM("tutor", **room), LLM("tutor", **pair, **room)
    chats = [[{"role": "user", "content": text}] for text in ("What is a block table?", "Tell me a story.")]
    params = SamplingParams(temperature=0, max_tokens=40)
    said, expected = (llm.chat(chats, params, use_tqdm=False) for llm in (speculative, plain))
    assert [o.outputs[0].token_ids for o in said] == [o.outputs[0].token_ids for o in expected]
    stats = speculative.llm_engine.stats()
    assert stats.num_draft_tokens > stats.num_accepted_tokens > 0.3 * stats.num_draft_tokens
