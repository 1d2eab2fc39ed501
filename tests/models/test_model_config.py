"""What is read from a model's folder, and the sentence that each mistake gets."""

import json
import subprocess
import sys

import huggingface_hub
import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from minivllm.model_config import KVCacheSpec, ModelConfig

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def make(tmp_path):
    """Write config.json (Llama's, changed by keywords; None removes an entry) and read it back."""

    def make(overrides=None, generation=None, **changes) -> ModelConfig:
        config = {key: value for key, value in (LLAMA | changes).items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return ModelConfig.from_pretrained(tmp_path, hf_overrides=overrides)

    return make


def test_what_a_short_llama_file_means(make, tmp_path):
    config = make()
    assert config.path == tmp_path
    assert (config.head_dim, config.max_position_embeddings, config.rope_theta) == (16, 2048, 10000.0)
    assert (config.dtype, config.tie_word_embeddings, config.rope_scaling) == ("float32", False, None)
    assert not (config.attention_bias or config.attention_output_bias or config.mlp_bias or config.qk_norm)
    assert config.layer_windows == (None, None, None)
    assert config.sliding_window is None
    assert config.eos_token_ids == ()
    assert config.raw["architectures"] == ["LlamaForCausalLM"]


SHAPE = {k: v for k, v in LLAMA.items() if k != "architectures"}
SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


@pytest.mark.parametrize(
    "hf",
    [
        LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, head_dim=24, tie_word_embeddings=True),
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}),
        MistralConfig(**SHAPE),
        MistralConfig(**SHAPE, sliding_window=None),
        Qwen2Config(**SHAPE),
        Qwen2Config(**SHAPE, **SLIDING),
        Qwen3Config(**SHAPE, **SLIDING),
        Qwen3Config(**SHAPE, attention_bias=True, head_dim=10),
    ],
    ids=lambda hf: hf.model_type,
)
def test_files_written_by_transformers_are_read_as_it_reads_them(hf, tmp_path):
    hf.architectures = [type(hf).__name__.replace("Config", "ForCausalLM")]
    hf.save_pretrained(tmp_path)
    config = ModelConfig.from_pretrained(tmp_path)
    for name in (*SHAPE, "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "bos_token_id"):
        assert getattr(config, name) == getattr(hf, name), name
    assert config.head_dim == (getattr(hf, "head_dim", None) or 16)
    assert config.rope_theta == hf.rope_parameters["rope_theta"]
    assert (config.rope_scaling or {}).get("factor") == hf.rope_parameters.get("factor")
    is_qwen2 = hf.model_type == "qwen2"
    assert config.attention_bias == (is_qwen2 or getattr(hf, "attention_bias", False))
    assert config.attention_output_bias == getattr(hf, "attention_bias", False)
    assert config.mlp_bias == getattr(hf, "mlp_bias", False)
    assert config.qk_norm == (hf.model_type == "qwen3")
    window = getattr(hf, "sliding_window", None)
    types = getattr(hf, "layer_types", None) or ["sliding_attention"] * 3
    assert config.layer_windows == tuple(window if t == "sliding_attention" else None for t in types)


def test_a_missing_window_means_what_the_family_means_by_it(make):
    assert make(architectures=["MistralForCausalLM"]).layer_windows == (4096,) * 3
    assert make(architectures=["Qwen2ForCausalLM"], sliding_window=8).layer_windows == (None,) * 3
    assert make(architectures=["LlamaForCausalLM"], sliding_window=8).layer_windows == (None,) * 3
    late = make(
        architectures=["Qwen3ForCausalLM"], use_sliding_window=True, sliding_window=8, max_window_layers=2
    )
    assert late.layer_windows == (None, None, 8)


def test_biases_that_a_family_does_not_have_are_not_switched_on(make):
    for name, qkv in {"MistralForCausalLM": False, "Qwen2ForCausalLM": True}.items():
        config = make(architectures=[name], attention_bias=True, mlp_bias=True)
        assert (config.attention_bias, config.attention_output_bias, config.mlp_bias) == (qkv, False, False)


def test_old_and_new_spelling_of_rope_mean_the_same(make):
    values = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    old = make(rope_theta=5e5, rope_scaling={"type": "llama3"} | values)
    new = make(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5} | values)
    assert old.rope_theta == new.rope_theta == 5e5
    assert old.rope_scaling == new.rope_scaling == {"rope_type": "llama3"} | values


def test_overrides_replace_and_merge(make):
    config = make({"max_position_embeddings": 77, "rope_theta": 3.0}, rope_parameters={"rope_theta": 2.0})
    assert (config.max_position_embeddings, config.rope_theta) == (77, 3.0)
    config = make({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, rope_theta=9.0)
    assert config.rope_scaling == {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 2048,
    }
    assert config.rope_theta == 9.0


def test_generation_config_comes_first(make):
    config = make(generation={"eos_token_id": [3, 4], "temperature": 0.6}, eos_token_id=9, bos_token_id=1)
    assert config.eos_token_ids == (3, 4)
    assert config.bos_token_id == 1
    assert config.generation_defaults["temperature"] == 0.6
    assert make(generation={}, eos_token_id=9).eos_token_ids == (9,)


def test_dtype_in_both_spellings(make):
    assert make(torch_dtype="bfloat16").dtype == make(dtype="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocab_size": None}, "vocab_size must be a positive whole number, got None"),
        ({"hidden_size": 0}, "hidden_size must be a positive whole number, got 0"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers must be a positive whole number, got '3'"),
        (
            {"num_key_value_heads": 3},
            r"num_attention_heads \(4\) must be a multiple of num_key_value_heads \(3\)",
        ),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_type 'dynamic' is not one of default, linear",
        ),
        (
            {"rope_scaling": {"type": "llama3", "factor": 2.0}},
            "rope_type 'llama3' needs a number for low_freq_factor, high_freq_factor",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "layer_types": ["full_attention"]} | SLIDING,
            r"layer_types must have one .* per layer \(3\)",
        ),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": -1},
            "sliding_window must be a positive",
        ),
    ],
)
def test_a_value_out_of_range_gets_a_sentence(make, changes, sentence):
    with pytest.raises(ValueError, match=f"config.json: {sentence}"):
        make(**changes)


def test_an_unsupported_architecture_lists_the_supported_ones(make):
    with pytest.raises(
        ValueError, match=r"not supported: GPT2LMHeadModel\. Supported: LlamaForCausalLM, Mistral"
    ):
        make(architectures=["GPT2LMHeadModel"])
    with pytest.raises(ValueError, match="config.json names none"):
        make(architectures=None)


@pytest.mark.parametrize("trust", [False, True])
def test_code_that_comes_with_a_model_is_never_imported(tmp_path, trust):
    (tmp_path / "modeling_mine.py").write_text("raise SystemExit('imported')")
    auto_map = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    (tmp_path / "config.json").write_text(
        json.dumps(LLAMA | {"architectures": ["Mine"], "auto_map": auto_map})
    )
    with pytest.raises(ValueError, match=r"not supported: Mine\. Python code .*auto_map.* is never run"):
        ModelConfig.from_pretrained(tmp_path, trust_remote_code=trust)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"auto_map": auto_map}))  # we have our own
    assert ModelConfig.from_pretrained(tmp_path, trust_remote_code=trust).architecture == "LlamaForCausalLM"


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        ModelConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is neither a folder nor a hub id"):
        ModelConfig.from_pretrained(tmp_path / "missing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        ModelConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold one JSON object, not a list"):
        ModelConfig.from_pretrained(tmp_path)


def test_a_hub_id_is_fetched_with_its_revision_and_without_code(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, *, revision, cache_dir, allow_patterns):
        asked.update(name=name, revision=revision, folder=cache_dir, patterns=allow_patterns)
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = ModelConfig.from_pretrained("some/model", revision="v2", download_dir="/elsewhere")
    assert loaded.vocab_size == 100
    assert (asked["name"], asked["revision"], asked["folder"]) == ("some/model", "v2", "/elsewhere")
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked["patterns"])


def test_a_hub_that_does_not_answer_gets_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match="there is no folder 'some/model' here, and the Hugging Face hub did not"
    ):
        ModelConfig.from_pretrained("some/model")


def test_bytes_of_the_cache(make):
    config = make()
    assert config.kv_cache_specs("bfloat16") == [KVCacheSpec(2, 16, "bfloat16", None)] * 3
    assert config.kv_cache_specs("float32", tensor_parallel_size=4)[0].num_kv_heads == 1
    assert KVCacheSpec(2, 16, "bfloat16").bytes_per_token == 2 * 2 * 16 * 2
    assert KVCacheSpec(2, 16, "float32").bytes_per_token == 2 * 2 * 16 * 4


def test_no_torch_is_imported_for_any_of_this():
    code = "import sys, minivllm.models.registry, minivllm.model_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
