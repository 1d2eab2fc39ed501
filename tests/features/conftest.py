"""Two random models, small enough to run thousands of steps: large variance, so that greedy tokens do not repeat."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from minivllm.llm import LLM


def save_random_qwen3(folder, **overrides):
    torch.manual_seed(5)
    shape = {
        "vocab_size": 256,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.4,
        "eos_token_id": 1,
        "bos_token_id": 0,
    }
    Qwen3ForCausalLM(Qwen3Config(**(shape | overrides))).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a model of 256 token ids and no tokenizer."""
    return save_random_qwen3(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def six_tokens(tmp_path_factory):
    """A model that knows six tokens, so that every continuation can be listed."""
    return save_random_qwen3(tmp_path_factory.mktemp("six"), vocab_size=6)


@pytest.fixture(scope="session")
def oracle():
    """folder, token ids -> log-probabilities [T, V] of the next token after each position, by transformers."""
    models = {}

    def logprobs(folder, token_ids):
        if folder not in models:
            models[folder] = Qwen3ForCausalLM.from_pretrained(folder).eval()
        with torch.inference_mode():
            return models[folder](torch.tensor([token_ids])).logits[0].log_softmax(-1)

    return logprobs


@pytest.fixture(scope="session")
def roomy(tiny):
    """An engine that never runs out of anything."""
    return LLM(tiny, num_gpu_blocks_override=400, block_size=4)


@pytest.fixture
def no_block_is_lost():
    """Call it with an idle LLM."""

    def check(llm):
        manager = llm.llm_engine.kv_cache_manager
        manager.check_integrity()
        assert not manager.tables()
        assert manager.pool.num_free_blocks == manager.pool.num_blocks - 1

    return check
