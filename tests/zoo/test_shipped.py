"""The models that ship: transformers loads them, they are as small as promised, and `tutor` knows what it should."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minivllm import LLM, zoo
from minivllm.zoo.cases import Case
from minivllm.zoo.evaluate import is_right, known_words, measure, table
from minivllm.zoo.lexicon import load_lexicon

MODELS = ("tutor", "tutor-draft")
HEADS = "tutor-medusa"  # no model of its own: drafts for tutor


def test_names_and_paths():
    assert zoo.names() == sorted((*MODELS, HEADS))
    for name in zoo.names():
        assert (zoo.path(name) / "config.json").is_file()
        assert (zoo.path(name) / "README.md").is_file()


@pytest.mark.parametrize("name", ["tuto", "", "../zoo", "models"])
def test_an_unknown_name_gets_a_sentence(name):
    with pytest.raises(ValueError, match="choose one of tutor, tutor-draft"):
        zoo.path(name)


def test_looking_up_a_model_loads_no_torch():
    code = "import sys, minivllm.zoo; minivllm.zoo.path('tutor'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_together_take_less_than_20_megabytes():
    files = [file for name in zoo.names() for file in zoo.path(name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6


@pytest.mark.parametrize(("name", "least", "most"), [("tutor", 4e6, 6e6), ("tutor-draft", 0, 0.6e6)])
def test_transformers_loads_the_model(name, least, most):
    model, report = AutoModelForCausalLM.from_pretrained(zoo.path(name), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    config = model.config
    assert least < sum(weight.numel() for weight in model.parameters()) < most
    assert config.hidden_size % 128 == config.intermediate_size % 128 == 0
    assert (
        config.num_attention_heads % 4 == config.num_key_value_heads % 4 == config.num_hidden_layers % 2 == 0
    )
    assert config.vocab_size % 64 == 0


def test_the_heads_are_small_and_no_model():
    assert (zoo.path(HEADS) / "model.safetensors").stat().st_size < 1e6
    with pytest.raises(ValueError, match="architecture not supported: MedusaModel"):
        LLM(HEADS)


def test_transformers_answers_a_question_and_stops():
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("tutor"))
    model = AutoModelForCausalLM.from_pretrained(zoo.path("tutor"), dtype=torch.float32)
    messages = [{"role": "user", "content": "What is PagedAttention?"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=100)[0, prompt["input_ids"].shape[1] :]
    (term,) = [term for term in load_lexicon().terms if term.name == "PagedAttention"]
    assert tokenizer.decode(output, skip_special_tokens=True) == term.answer


def test_the_evaluation_generates_through_the_engine():
    path = zoo.path("tutor")
    tokenizer = AutoTokenizer.from_pretrained(path).backend_tokenizer
    score, misses = measure(LLM(str(path)), tokenizer, load_lexicon(), "glossary", 8, seed=7)
    assert score.num_cases == 8
    assert score.num_right + len(misses) == 8
    assert score.num_right >= 7
    assert "| glossary |" in table([score])


def test_what_counts_as_right():
    known = known_words(load_lexicon(), 5)
    exact = Case("x", (("user", "What?"),), "Copied: a.")
    assert is_right(exact, "Copied: a.", True, known)
    assert not is_right(exact, "Copied: a.", False, known)
    assert not is_right(exact, "Copied: a", True, known)
    anything = Case("x", (("user", "Tell me of a zorble."),), "")
    assert is_right(anything, "The zorble lost the lantern.", True, known)
    assert not is_right(anything, "The zorbl lost the lantern.", True, known)
    assert not is_right(anything, "", True, known)


def test_every_model_card_lists_every_accuracy():
    for name in MODELS:
        card = Path(zoo.path(name) / "README.md").read_text(encoding="utf-8")
        for skill in ("glossary", "lookup_500", "lookup_1500", "sort_listed", "copy_unseen", "any_prompt"):
            assert f"| {skill} |" in card
