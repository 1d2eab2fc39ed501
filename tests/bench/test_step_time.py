"""`bench step-time`: the sections make up the step, the layers' parts are taken apart and put together again."""

import argparse

import pytest
from transformers import LlamaConfig

from minivllm import LLM
from minivllm.bench import step_time

MACHINE = {"gflops": 2.0, "gigabytes": 1.0}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=700,
        tie_word_embeddings=False,
        eos_token_id=None,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return LLM(str(folder), load_format="dummy", num_gpu_blocks_override=400)


def test_sections_make_up_the_step(llm):
    model = llm.llm_engine.executor.runner.model
    before = model.fused
    args = argparse.Namespace(repetitions=1, detokenize=False)
    column = step_time.best_of(llm, "single", args, MACHINE)
    assert model.fused is before
    assert column["steps"] == 128 and column["output_tokens"] == 128
    assert sum(column["sections"].values()) == pytest.approx(column["us_per_step"], rel=0.01)
    engine_parts = ("schedule", "prepare", "runner, the rest", "sample", "embedding", "layers", "head")
    assert all(column["sections"][part] > 0 for part in engine_parts)
    assert not set(column["sections"]) & set(column["layers_apart"])
    assert all(us > 0 for part, us in column["layers_apart"].items())


def test_the_floor_is_reading_or_arithmetic(llm):
    """The head and two layers are multiplied with each token; the embedding, as large as the head, is looked up."""
    in_layer = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32
    multiplied = 2 * in_layer + 32 + 320 * 32
    read = 4 * (multiplied + 320 * 32) / 1e9
    assert step_time.floor(llm, 1, MACHINE) == pytest.approx(read)
    assert step_time.floor(llm, 100, MACHINE) == pytest.approx(2 * multiplied * 100 / 2e9)
