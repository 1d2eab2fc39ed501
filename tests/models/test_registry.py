import pytest

from minivllm.models import ModelRegistry
from minivllm.models.decoder import DecoderModel


def test_names():
    names = ModelRegistry.get_supported_archs()
    assert names == ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]
    assert all(ModelRegistry.resolve(name) is DecoderModel for name in names)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"not supported: Unknown\. Supported: LlamaForCausalLM, "):
        ModelRegistry.resolve("Unknown")
