"""The shipped tokenizer: nothing is lost, listed words are single tokens, and the template is what training wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from minivllm import zoo
from minivllm.zoo.cases import cases, token_ids
from minivllm.zoo.lexicon import load_lexicon
from minivllm.zoo.rows import prompt_text

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module", params=["tutor", "tutor-draft"])
def folder(request):
    return zoo.path(request.param)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(zoo.path("tutor") / "tokenizer.json"))


def test_both_models_have_the_same_tokenizer():
    texts = {(zoo.path(name) / "tokenizer.json").read_bytes() for name in ("tutor", "tutor-draft")}
    assert len(texts) == 1


@given(st.text())
def test_any_text_comes_back(tokenizer, text):
    if not any(special in text for special in SPECIAL):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_listed_words_are_single_tokens(tokenizer):
    words = load_lexicon().words
    for kind in ("listed", "names", "animals", "objects", "colours", "foods", "jobs"):
        for word in words[kind]:
            assert len(tokenizer.encode(f" {word}").ids) == len(word.split()), word


def test_digits_and_chinese_characters_stand_alone(tokenizer):
    assert [tokenizer.decode([i]) for i in tokenizer.encode("4817").ids] == list("4817")
    assert [tokenizer.decode([i]) for i in tokenizer.encode("你好").ids] == list("你好")


def test_chinese_answers_are_not_torn_into_bytes(tokenizer):
    for term in load_lexicon().terms:
        if term.answer_zh:
            assert len(tokenizer.encode(term.answer_zh).ids) < 1.5 * len(term.answer_zh)


def test_vocabulary_size_suits_sharding(tokenizer):
    assert tokenizer.get_vocab_size() % 64 == 0
    assert tokenizer.get_vocab_size() <= 4096
    assert [tokenizer.token_to_id(text) for text in SPECIAL] == [0, 1, 2]


def test_chat_template_writes_what_training_wrote(folder, tokenizer):
    reader = AutoTokenizer.from_pretrained(folder)
    for skill in ("told", "glossary", "chinese", "lookup_500"):
        for case in cases(load_lexicon(), skill, 5):
            messages = [{"role": role, "content": content} for role, content in case.messages]
            text = reader.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert text.endswith(prompt_text(case.messages[-1][1]))
            assert reader.encode(text, add_special_tokens=False) == token_ids(tokenizer, case)


def test_an_answer_is_tokenized_in_the_prompt_as_it_was_generated(tokenizer):
    """A conversation's cached blocks can be found again only if this holds."""
    for case in cases(load_lexicon(), "told", 10):
        for place, (role, content) in enumerate(case.messages):
            if role == "assistant":
                before = case.messages[place - 1][1]
                whole = tokenizer.encode(prompt_text(before) + content).ids
                assert whole == tokenizer.encode(prompt_text(before)).ids + tokenizer.encode(content).ids
