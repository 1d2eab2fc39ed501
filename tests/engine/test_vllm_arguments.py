"""Arguments of vLLM that this engine has not: an alias, a warning or a sentence, in Python and in the shell alike."""

import dataclasses
import json
import logging

import pytest

from minivllm.config import EngineConfig
from minivllm.llm import LLM
from minivllm.presets import PRESETS, preset_arguments
from minivllm.sampling_params import SamplingParams
from minivllm.serve.arguments import make_parser, read_arguments
from minivllm.vllm_arguments import REFUSED, SPECULATION, WITHOUT_EFFECT, engine_arguments

FIELDS = {field.name for field in dataclasses.fields(EngineConfig)}


def typed(*argv):
    return read_arguments(vars(make_parser().parse_args(argv)))[0]


def test_no_argument_has_two_answers():
    assert not set(REFUSED) & set(WITHOUT_EFFECT) and not set(SPECULATION) & FIELDS
    for name, answer in WITHOUT_EFFECT.items():
        assert name not in FIELDS and answer
    assert all(why and "not served" not in why for why, _ in REFUSED.values())


@pytest.mark.parametrize("name", sorted(set(REFUSED) - FIELDS))
def test_what_is_not_served_gets_the_same_sentence_everywhere(name):
    why, harmless = REFUSED[name]
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(ValueError) as offline:
        engine_arguments({name: "something else"}, FIELDS)
    with pytest.raises(ValueError) as online:
        typed(flag, "something else")
    assert str(offline.value) == f"{name} is not served: {why}" + str(offline.value).partition(why)[2]
    assert str(online.value) == str(offline.value).replace(name, flag, 1)
    for value in (None, False, *harmless):
        assert engine_arguments({name: value}, FIELDS) == {}
    for value in harmless:
        typed(flag, str(value))


def test_what_has_no_effect_is_accepted_with_a_warning():
    for name, why in WITHOUT_EFFECT.items():
        with pytest.warns(UserWarning, match=f"{name} has no effect: {why}"):
            assert engine_arguments({name: True, "seed": 3}, FIELDS) == {"seed": 3}


def test_the_short_way_to_ask_for_speculation():
    short = engine_arguments({"spec_method": "ngram", "spec_tokens": 4, "spec_model": None}, FIELDS)
    assert (
        EngineConfig(**short).speculation
        == EngineConfig(speculative_config={"method": "ngram", "num_speculative_tokens": 4}).speculation
    )
    assert typed("--spec-method", "ngram", "--spec-tokens", "4").speculation.num_speculative_tokens == 4
    both = {"spec_tokens": 4, "speculative_config": json.dumps({"num_speculative_tokens": 2})}
    with pytest.raises(ValueError, match="leave out spec_method"):
        engine_arguments(both, FIELDS)


def test_an_engine_for_embeddings_in_all_three_spellings(tiny_model):
    for words in ({"task": "embed"}, {"runner": "pooling", "convert": "embed"}, {}):
        llm = LLM(str(tiny_model), num_gpu_blocks_override=20, **words)
        (one,), (other,) = llm.embed("the cat", use_tqdm=False), llm.encode("the cat", use_tqdm=False)
        assert one.outputs.embedding == other.outputs.embedding == one.outputs.data
    with pytest.raises(ValueError, match="task is not served.*may be auto, generate, embed"):
        LLM(str(tiny_model), task="classify")


def test_files_of_the_hub_go_where_the_user_says(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        raise OSError("no network in this test")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match="did not deliver it: no network in this test"):
        LLM("owner/name", download_dir=str(tmp_path), revision="main")
    assert asked["cache_dir"] == str(tmp_path) and (asked["name"], asked["revision"]) == (
        "owner/name",
        "main",
    )


def test_what_a_prompt_may_not_bring_is_refused(tiny_model):
    llm = LLM(str(tiny_model), num_gpu_blocks_override=20, tokenizer_mode="hf", trust_remote_code=True)
    for key in ("multi_modal_data", "prompt_embeds", "encoder_prompt"):
        with pytest.raises(ValueError, match=f"prompt holds {key}, which is not served"):
            llm.generate({"prompt": "the cat", key: {"image": 1}}, use_tqdm=False)
    with pytest.raises(ValueError, match="lora_request is not served: there are no LoRA adapters here"):
        llm.generate("the cat", lora_request=object(), use_tqdm=False)
    harmless = {"prompt": "the cat", "multi_modal_data": None}
    (output,) = llm.generate(harmless, SamplingParams(max_tokens=2), use_tqdm=False, lora_request=None)
    assert output.finished


def test_a_chat_template_may_come_with_the_engine(tiny_model):
    llm = LLM(str(tiny_model), num_gpu_blocks_override=20, chat_template="{{ messages[0]['content'] }}")
    (output,) = llm.chat(
        [{"role": "user", "content": "the cat"}], SamplingParams(max_tokens=1), use_tqdm=False
    )
    assert output.prompt_token_ids == llm.get_tokenizer().encode("the cat")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_the_model_and_what_is_given_wins(name):
    config = EngineConfig(**preset_arguments(name, {"model": "tutor"}))
    assert config.max_model_len == min(2048, PRESETS[name]["max_model_len"])  # tutor reads 2,048 tokens
    for field in ("gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens"):
        assert getattr(config, field) == PRESETS[name][field]
    assert typed("--preset", name) == config
    own = typed("tutor", "--preset", name, "--max-num-seqs", "7", "--max-model-len", "99")
    assert (own.max_num_seqs, own.max_model_len) == (7, 99)


def test_presets_are_the_published_three():
    rows = {name: tuple(preset.values()) for name, preset in PRESETS.items()}
    assert rows == {
        "general": (0.9, 4096, 256, 8192),
        "low-latency": (0.85, 2048, 128, 2048),
        "high-throughput": (0.95, 8192, 512, 16384),
    }
    with pytest.raises(ValueError, match="preset must be one of general, low-latency, high-throughput"):
        LLM(preset="fast")


def test_an_engine_runs_with_a_preset(tiny_model):
    llm = LLM(str(tiny_model), preset="low-latency", num_gpu_blocks_override=20)
    assert llm.llm_engine.config.max_num_seqs == 128
    assert llm.generate([[5, 6]], SamplingParams(max_tokens=2), use_tqdm=False)[0].finished


@pytest.fixture
def quiet_logger():
    logger = logging.getLogger("minivllm")
    before = (logger.handlers[:], logger.level, logger.propagate)
    logger.handlers.clear()
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def test_the_log_of_an_offline_engine(tiny_model, monkeypatch, capsys, quiet_logger):
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    LLM(str(tiny_model), num_gpu_blocks_override=20)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "info")
    for _ in range(2):  # the second engine adds no second handler
        LLM(str(tiny_model), num_gpu_blocks_override=20)
    assert capsys.readouterr().err.count("INFO: Model weights: ") == 2
    quiet_logger.handlers.clear()
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "loud")
    with pytest.raises(ValueError, match="VLLM_LOGGING_LEVEL must be DEBUG"):
        LLM(str(tiny_model))
