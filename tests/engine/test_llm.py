"""LLM: lists in, lists out, in order; and nothing half done is left behind."""

import numpy as np
import pytest

from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=4)


@pytest.fixture(scope="module")
def llm(tiny_model):
    return LLM(str(tiny_model), num_gpu_blocks_override=60, max_num_seqs=4, max_num_batched_tokens=32)


@pytest.fixture(autouse=True)
def nothing_is_left(llm, assert_idle):
    yield
    assert_idle(llm.llm_engine)


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def test_outputs_come_in_the_order_of_the_prompts_however_long_each_takes(llm):
    prompts = [[5 + i] * (1 + i % 3) for i in range(9)]
    params = [SamplingParams(temperature=0, max_tokens=1 + (7 * i) % 5, ignore_eos=True) for i in range(9)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == prompts
    assert [len(said) for said in tokens(outputs)] == [p.max_tokens for p in params]
    for prompt, one, output in zip(prompts, params, outputs, strict=True):
        assert tokens(llm.generate([prompt], one, use_tqdm=False)) == [output.outputs[0].token_ids]
        assert output.finished


@pytest.mark.parametrize(
    "prompt", ["the cat", [5, 6, 7], {"prompt": "the cat"}, {"prompt_token_ids": [5, 6, 7]}]
)
def test_one_prompt_or_a_list_with_one(llm, prompt):
    one, listed = (llm.generate(p, GREEDY, use_tqdm=False) for p in (prompt, [prompt]))
    assert len(one) == len(listed) == 1 and tokens(one) == tokens(listed)


def test_text_and_ids_may_be_mixed(llm):
    ids = llm.get_tokenizer().encode("the cat")
    outputs = llm.generate(["the cat", ids, {"prompt": "the cat"}], GREEDY, use_tqdm=False)
    assert len({tuple(said) for said in tokens(outputs)}) == 1
    assert [output.prompt for output in outputs] == ["the cat", None, "the cat"]


def test_without_parameters_the_models_own_defaults_apply(llm):
    assert llm.get_default_sampling_params() == SamplingParams()
    (output,) = llm.generate([[5, 6]], use_tqdm=False)
    assert 1 <= len(output.outputs[0].token_ids) <= 16


@pytest.mark.parametrize(
    "prompts, kwargs, sentence",
    [
        ([], {}, "prompts is empty"),
        ((), {}, "prompts is empty"),
        ("", {}, "prompt is empty"),
        (5, {}, "prompts must be one prompt or a list of prompts, not int"),
        (None, {}, "prompts must be one prompt or a list of prompts, not NoneType"),
        ((p for p in ["a"]), {}, "prompts must be one prompt or a list of prompts, not generator"),
        (np.array([1, 2]), {}, "prompts must be one prompt or a list of prompts, not ndarray"),
        (["a", 5], {}, "prompt must be a string"),
        (["a", ""], {}, "prompt is empty"),
        (["a", "b"], {"sampling_params": [GREEDY]}, "sampling_params has 1 entries for 2 prompts"),
        (["a"], {"sampling_params": [GREEDY, GREEDY]}, "sampling_params has 2 entries for 1 prompts"),
        (["a"], {"sampling_params": "x"}, "sampling_params must be SamplingParams, or a list"),
        (["a"], {"sampling_params": {"n": 1}}, "sampling_params must be SamplingParams, or a list"),
        (["a"], {"sampling_params": 5}, "sampling_params must be SamplingParams, or a list"),
        (["a", "b"], {"priority": [1]}, "priority has 1 entries for 2 prompts"),
        (["a", [5, 10**6]], {}, "prompt holds token id 1000000"),
    ],
)
def test_a_mistake_is_a_sentence_and_no_prompt_was_run(llm, prompts, kwargs, sentence):
    before = llm.llm_engine.stats().num_generation_tokens
    with pytest.raises(ValueError, match=sentence):
        llm.generate(prompts, use_tqdm=False, **kwargs)
    assert llm.llm_engine.stats().num_generation_tokens == before


def test_an_interrupt_leaves_no_half_run_request_behind(llm, monkeypatch, assert_idle):
    step, calls = llm.llm_engine.step, []

    def interrupted():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(llm.llm_engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[5, 6]] * 6, SamplingParams(max_tokens=50, ignore_eos=True), use_tqdm=False)
    assert_idle(llm.llm_engine)
    assert len(llm.generate([[5, 6]] * 2, GREEDY, use_tqdm=False)) == 2


def test_the_progress_bar_goes_to_stderr_when_asked_for(llm, capsys):
    llm.generate([[5, 6]] * 3, GREEDY, use_tqdm=False)
    assert capsys.readouterr() == ("", "")
    llm.generate([[5, 6]] * 3, GREEDY)
    captured = capsys.readouterr()
    assert captured.out == "" and "Processed prompts" in captured.err and "3/3" in captured.err


def test_chat_renders_the_template_and_answers_one_or_several_conversations(llm):
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    tokenizer = llm.get_tokenizer()
    text = "<|start|>user: hi<|end|><|start|>assistant: ho<|end|>"
    one = llm.chat(conversation, GREEDY, use_tqdm=False)
    assert one[0].prompt_token_ids == tokenizer.encode(text + "<|start|>assistant: ")
    two = llm.chat([conversation, conversation[:1]], GREEDY, use_tqdm=False)
    assert tokens(two[:1]) == tokens(one)
    assert two[1].prompt_token_ids == tokenizer.encode("<|start|>user: hi<|end|><|start|>assistant: ")
    bare = llm.chat(conversation, GREEDY, use_tqdm=False, add_generation_prompt=False)
    assert bare[0].prompt_token_ids == tokenizer.encode(text)
    own = llm.chat(conversation, GREEDY, use_tqdm=False, chat_template="{{ messages[0]['content'] }}")
    assert own[0].prompt_token_ids == tokenizer.encode("hi")


@pytest.mark.parametrize(
    "messages", [[], None, 5, [[]], "hi", [5], [{"role": "user"}], [{"content": "a"}], [{}]]
)
def test_malformed_messages_are_refused(llm, messages):
    with pytest.raises(ValueError, match="messages is empty, or no list|every message must be a dict"):
        llm.chat(messages, GREEDY, use_tqdm=False)


@pytest.mark.parametrize(
    "role, content", [("user", None), ("user", 5), (None, "a"), (5, "a"), ("user", ["a"])]
)
def test_messages_of_other_types_are_refused(llm, role, content):
    with pytest.raises(ValueError, match="every message must be a dict with strings"):
        llm.chat([{"role": role, "content": content}], GREEDY, use_tqdm=False)


def test_an_unknown_argument_is_refused_by_name(tiny_model):
    with pytest.raises(
        ValueError, match="unknown argument 'max_seqs'; did you mean max_num_seqs.* It knows: model, "
    ):
        LLM(str(tiny_model), max_seqs=4)


def test_the_prefix_cache_can_be_reset_when_idle(llm):
    prompt = [[5] * 40]
    llm.generate(prompt, GREEDY, use_tqdm=False)
    assert llm.generate(prompt, GREEDY, use_tqdm=False)[0].num_cached_tokens == 32
    assert llm.reset_prefix_cache()
    assert llm.generate(prompt, GREEDY, use_tqdm=False)[0].num_cached_tokens == 0
