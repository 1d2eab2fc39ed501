"""Reading tokenizer.json ourselves is invisible: whatever a folder holds, the answers are those of AutoTokenizer."""

import copy
import inspect
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from minivllm import LLM, SamplingParams, zoo
from minivllm.chat_template import RESERVED, render
from minivllm.config import EngineConfig
from minivllm.fast_tokenizer import FastTokenizer
from minivllm.tokenizer import load_tokenizer

CONFIG = EngineConfig(model="tutor")
pieces = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_end", " ", "  ", "\n", "\t ", "don't", "42"]
)
texts = st.lists(pieces | st.text(), max_size=6).map("".join)
token_ids = st.lists(st.integers(0, 3100), max_size=20)  # a few more than there are


@pytest.fixture(scope="module", params=["tutor", "tutor-draft"])
def pair(request):
    """(ours, transformers')."""
    folder = str(zoo.path(request.param))
    return load_tokenizer(folder, CONFIG), AutoTokenizer.from_pretrained(folder)


def is_fast(tokenizer):
    return isinstance(tokenizer, FastTokenizer) and tokenizer._whole is None


@given(text=texts, special=st.booleans())
def test_texts(pair, text, special):
    ours, theirs = pair
    assert is_fast(ours)
    assert ours.encode(text, add_special_tokens=special) == theirs.encode(text, add_special_tokens=special)


@given(ids=token_ids, skip=st.booleans())
def test_token_ids(pair, ids, skip):
    ours, theirs = pair
    assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert is_fast(ours)


def test_the_vocabulary_and_copies(pair):
    ours, theirs = pair
    assert ours.get_vocab() == theirs.get_vocab() and ours.chat_template == theirs.chat_template
    again = copy.deepcopy(ours)
    assert again.encode("Hello<|im_end|>") == theirs.encode("Hello<|im_end|>") and is_fast(again)


TEMPLATES = [
    None,  # the model's own
    "{%- for m in messages %}\n  {%- if loop.index > 3 %}{% break %}{% endif %}\n[{{ m.role }}] "
    "{{ m.content | trim }}\n{% endfor %}\n{{ eos_token }}{{ pad_token }}{{ bos_token }}"
    "{% if add_generation_prompt %}>{% endif %}",
    "{{ tools | tojson }}|{{ messages | tojson(indent=2) }}|{{ mood }}|{{ documents is none }}",
    "{% for m in messages %}{{ m['name'] }}{{ m.tool_calls }}{{ 'x' if m.content is defined else 'y' }}{% endfor %}",
    "{{ messages[0].content + messages[0].role }}",
    "{% if messages[0].role != 'user' %}{{ raise_exception('a user speaks first') }}{% endif %}"
    "{{ messages[0].content }}",
    "{% set ns = namespace(last='') %}{% for m in messages %}{% set ns.last = m.content %}{% endfor %}{{ ns.last }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{{ m.thinking }}{{ m.reasoning_content }}{% endfor %}",
    "{{ messages.__class__ }}{{ messages.append(1) }}",
    "{% for m in messages %",
]
values = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool"]), "content": st.none() | texts},
    optional={
        "name": st.text(max_size=3),
        "tool_calls": st.lists(st.dictionaries(st.text(max_size=3), values, max_size=2), max_size=2),
        "reasoning": st.text(max_size=3),
        "other": values,
    },
)


def outcome(tokenizer, *args, **options):
    try:
        return tokenizer.apply_chat_template(*args, **options)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        return type(error), str(error)


@settings(max_examples=200)
@given(
    messages=st.lists(message, max_size=4),
    template=st.sampled_from(TEMPLATES),
    tools=st.none() | st.just([{"type": "function", "function": {"name": "<é>"}}]),
    prompt=st.booleans(),
    go_on=st.booleans(),
    more=st.fixed_dictionaries(
        {}, optional={"mood": values, "messages": values, "eos_token": values, "documents": values}
    ),
)
def test_conversations(pair, messages, template, tools, prompt, go_on, more):
    ours, theirs = copy.copy(pair[0]), pair[1]
    options = {"tools": tools, "chat_template": template, "tokenize": False, "add_generation_prompt": prompt}
    options |= {"continue_final_message": go_on, **more}
    assert outcome(ours, messages, **options) == outcome(theirs, messages, **options)


def test_a_usual_conversation_does_not_ask_transformers(pair):
    ours, theirs = pair
    asks = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am "}]
    for options in ({"add_generation_prompt": True}, {"continue_final_message": True}, {"mood": "gay"}):
        given = ours.apply_chat_template(asks, tokenize=False, **options)
        assert given == theirs.apply_chat_template(asks, tokenize=False, **options)
    assert is_fast(ours)


def test_what_we_take_for_variables_of_a_template_is_no_argument_of_transformers():
    method = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    ours = inspect.signature(FastTokenizer.apply_chat_template).parameters
    assert set(method) - {"kwargs"} <= set(ours) | RESERVED


class Shout(str):
    """A text with a method of its own."""


@pytest.mark.parametrize("value", [Shout("a"), object(), {1: 2}, ("a",)])
def test_a_template_sees_nothing_but_json(value):
    assert render("{{ messages }}", [{"role": "user", "content": value}], None, {}) is None


def edit(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        for path, value in changes.items():
            *parents, last = path.split("__")
            inner = content
            for parent in parents:
                inner = inner[int(parent) if parent.isdigit() else parent]
            inner[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


FAST = {
    "as shipped": lambda folder: None,
    "saved by transformers 5": lambda folder: AutoTokenizer.from_pretrained(folder).save_pretrained(folder),
    "a llama": edit("config.json", model_type="llama"),
    "template in a file": write("chat_template.jinja", "{{ messages[0].content }}!"),
    "empty template in a file": write("chat_template.jinja", ""),
    "begins with a token": edit(
        "tokenizer.json",
        post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
            },
        },
    ),
    "a token that is not special": edit("tokenizer.json", added_tokens__1__special=False),
}
WHOLE = {
    "a class that builds its own": edit("tokenizer_config.json", tokenizer_class="Qwen2Tokenizer"),
    "a type whose class is known to be wrong": edit("config.json", model_type="qwen2"),
    "an unknown key": edit("tokenizer_config.json", split_special_tokens=True),
    "more special tokens": edit("tokenizer_config.json", extra_special_tokens=["Hello"]),
    "more special tokens in a file": write("special_tokens_map.json", '{"bos_token": "you"}'),
    "more tokens in a file": write("added_tokens.json", '{"zebra": 3072}'),
    "several templates": edit(
        "tokenizer_config.json", chat_template=[{"name": "default", "template": "{{ messages[0].content }}"}]
    ),
    "clean-up": edit("tokenizer_config.json", clean_up_tokenization_spaces=True),
    "an eos that is no special token": edit("tokenizer_config.json", eos_token="you"),
    "a special token that eats spaces": edit("tokenizer.json", added_tokens__2__lstrip=True),
    "truncation": edit(
        "tokenizer.json",
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    ),
    "no config.json": lambda folder: (folder / "config.json").unlink(),
}


@pytest.mark.parametrize(
    ("change", "fast"),
    [*((c, True) for c in FAST.values()), *((c, False) for c in WHOLE.values())],
    ids=[*FAST, *WHOLE],
)
def test_any_folder_answers_as_with_transformers(tmp_path, change, fast):
    folder = shutil.copytree(zoo.path("tutor"), tmp_path / "model")
    change(folder)
    ours, theirs = load_tokenizer(str(folder), CONFIG), AutoTokenizer.from_pretrained(folder)
    text = "Hello you, zebra!  <|im_start|>user\nI am 42 . <|im_end|> 你好"
    for special in (True, False):
        ids = theirs.encode(text, add_special_tokens=special)
        assert ours.encode(text, add_special_tokens=special) == ids
        assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(
            ids, skip_special_tokens=special
        )
    asks = [{"role": "user", "content": "Hi"}]
    assert outcome(ours, asks, tokenize=False) == outcome(theirs, asks, tokenize=False)
    assert ours.chat_template == theirs.chat_template
    assert is_fast(ours) == fast


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"tokenizer_class": "PreTrainedTokenizerFast"', "\0\0"])
def test_a_damaged_file_gets_its_sentence(tmp_path, name, text):
    folder = shutil.copytree(zoo.path("tutor"), tmp_path / "model")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=r"the tokenizer of .* cannot be loaded .*download its files again"):
        load_tokenizer(str(folder), CONFIG)


def test_whoever_asks_for_the_tokenizer_gets_transformers_own_and_may_change_it():
    llm = LLM("tutor-draft", num_gpu_blocks_override=64)
    params = SamplingParams(temperature=0, max_tokens=1)
    asks = [{"role": "user", "content": "Hi"}]
    assert is_fast(llm.llm_engine.tokenizer)
    before = llm.chat(asks, params, use_tqdm=False)[0].prompt_token_ids
    assert is_fast(llm.llm_engine.tokenizer)
    tokenizer = llm.get_tokenizer()
    assert isinstance(tokenizer, PreTrainedTokenizerBase) and llm.get_tokenizer() is tokenizer
    assert llm.chat(asks, params, use_tqdm=False)[0].prompt_token_ids == before
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert llm.chat(asks, params, use_tqdm=False)[0].prompt_token_ids == tokenizer.encode("Hi")


def test_everything_else_is_transformers_too(pair):
    ours, theirs = copy.copy(pair[0]), pair[1]
    assert ours.eos_token_id == theirs.eos_token_id and ours.convert_tokens_to_ids("<|im_end|>") == 2
    with pytest.raises(AttributeError):
        _ = ours.no_such_thing
