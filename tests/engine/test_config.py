"""EngineConfig: every field's wrong values are refused in a sentence that names it."""

import dataclasses
import math

import pytest

from minivllm import zoo
from minivllm.config import EngineConfig, resolve_model

NOT_INTEGERS = [1.0, math.nan, math.inf, True, "8", [8], None]
WRONG = {
    "model": ["", None, 5, ["tutor"]],
    "tokenizer": ["", 5, ["x"]],
    "revision": ["", 5],
    "download_dir": ["", 5],
    "tokenizer_mode": ["slow", "mistral", "", None],
    "trust_remote_code": [None, 1, "yes"],
    "hf_overrides": [None, [], "x", 5],
    "load_format": ["pickle", "", None, []],
    "dtype": ["int8", "", None, 16],
    "device": ["", None, 0],
    "attention_backend": ["flash", None],
    "quantization": ["int3", "", 4],
    "enforce_eager": [None, 0, "no"],
    "seed": [*NOT_INTEGERS, -1, 2**63],
    "max_model_len": [*NOT_INTEGERS[:-1], 0, -5],
    "max_logprobs": [*NOT_INTEGERS, -2],
    "block_size": [*NOT_INTEGERS, 0, 257],
    "gpu_memory_utilization": [0, 0.0, -0.1, 1.01, math.nan, math.inf, "0.9", True, None, 10**400],
    "kv_cache_dtype": ["int8", "float8", "fp16", "", None, 8],
    "kv_cache_memory_bytes": [*NOT_INTEGERS[:-1], 0],
    "num_gpu_blocks_override": [*NOT_INTEGERS[:-1], 0, 1],
    "enable_prefix_caching": [None, 1, "no"],
    "tensor_parallel_size": [*NOT_INTEGERS, 0, -1],
    "pipeline_parallel_size": [*NOT_INTEGERS, 0, -1],
    "data_parallel_size": [*NOT_INTEGERS, 0, -1],
    "distributed_executor_backend": ["gloo", "", 5],
    "max_num_seqs": [*NOT_INTEGERS, 0, -1, 4096],  # 4096 is more than max_num_batched_tokens is by default
    "max_num_batched_tokens": [*NOT_INTEGERS, 0, 255],  # 255 is less than max_num_seqs is by default
    "enable_chunked_prefill": [None, 1, "no"],
    "long_prefill_token_threshold": [*NOT_INTEGERS, -1],
    "scheduling_policy": ["lifo", None, 5],
    "enable_static_batching": [None, 1],
    "max_num_queued_reqs": [*NOT_INTEGERS[:-1], 0],
    "preemption_mode": ["kill", None],
    "speculative_config": [5, [], "x", "[1]", {}, {"num_speculative_tokens": 2}],
    "speculative_model": ["", 5],
    "num_speculative_tokens": [*NOT_INTEGERS[:-1], 0, 5],  # 5 of which model?
    "swap_space": [-1, math.nan, math.inf, "4", True, None, 10**400],
}


def test_every_field_is_tried():
    assert set(WRONG) == {field.name for field in dataclasses.fields(EngineConfig)}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name in WRONG for value in WRONG[name]], ids=lambda v: str(type(v))
)
def test_a_wrong_value_is_a_sentence_that_names_the_field(name, value):
    with pytest.raises(ValueError) as caught:
        EngineConfig(**{name: value})
    sentence = str(caught.value)
    assert name in sentence and "must" in sentence and "\n" not in sentence


def test_the_defaults_stand_and_cannot_be_changed():
    config = EngineConfig()
    assert (config.model, config.block_size, config.max_num_seqs, config.seed) == ("tutor", 16, 256, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.block_size = 8


def test_two_fields_that_contradict_each_other_are_both_named():
    with pytest.raises(ValueError, match=r"max_num_batched_tokens \(4\) must be at least max_num_seqs \(5\)"):
        EngineConfig(max_num_batched_tokens=4, max_num_seqs=5)
    whole_prompts = EngineConfig(enable_chunked_prefill=False, max_num_batched_tokens=300)
    whole_prompts.check_against(300)
    with pytest.raises(
        ValueError, match=r"\(300\) must be at least max_model_len \(301\) when enable_chunked"
    ):
        whole_prompts.check_against(301)
    EngineConfig(max_num_batched_tokens=300).check_against(301)


def test_a_model_is_a_folder_a_shipped_name_or_a_hub_id(tmp_path):
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("owner/name") == "owner/name"
    for name in zoo.names():
        assert resolve_model(name) == str(zoo.path(name))
    for name in ("nonesuch", "./not/here", "/not/here", "~/not/here", "../x"):
        with pytest.raises(ValueError, match="is neither a folder nor a hub id") as caught:
            resolve_model(name)
        assert name in str(caught.value)
