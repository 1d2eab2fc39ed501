"""InputProcessor without a model: what a prompt and its parameters become, and where the bounds lie exactly."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.input_processor import InputProcessor
from minivllm.sampling_params import SamplingParams

V, MAX_LEN, EOS = 50, 10, 7


class Letters:
    """A tokenizer with one token for each letter: a = 1, b = 2, ...; a space is 0."""

    def encode(self, text, add_special_tokens=True):
        return [30] * add_special_tokens + ["_abcdefghij".index(c.replace(" ", "_")) for c in text]


def make(engine_seed=0, max_logprobs=20):
    config = SimpleNamespace(seed=engine_seed, max_logprobs=max_logprobs)
    model_config = SimpleNamespace(vocab_size=V, eos_token_ids=frozenset([EOS]))
    return InputProcessor(config, model_config, Letters(), MAX_LEN)


def requests(prompt=(1, 2, 3), engine_seed=0, number=0, **fields):
    return make(engine_seed).make_requests("x", list(prompt), SamplingParams(**fields), number)


@given(st.lists(st.integers(0, V - 1), min_size=1, max_size=15), st.integers(1, 20))
def test_truncation_keeps_the_last_tokens_and_all_of_a_shorter_prompt(prompt, limit):
    _, kept = make().tokenize(prompt, SamplingParams(truncate_prompt_tokens=limit))
    assert kept == list(reversed(list(reversed(prompt))[:limit]))
    _, kept = make().tokenize(prompt, SamplingParams(truncate_prompt_tokens=-1))
    assert len(kept) == min(len(prompt), MAX_LEN - 1) and kept == prompt[len(prompt) - len(kept) :]
    assert make().tokenize(prompt, SamplingParams()) == (None, prompt)


@pytest.mark.parametrize("asked, granted", [(1, 1), (7, 7), (8, 7), (10**9, 7), (None, 7)])
def test_max_tokens_are_cut_to_the_room(asked, granted):
    assert [r.max_tokens for r in requests(max_tokens=asked)] == [granted]


def test_min_tokens_may_fill_the_room_and_no_more():
    make().check([1, 2, 3], SamplingParams(min_tokens=7, max_tokens=None))
    with pytest.raises(ValueError, match=r"min_tokens \(8\) must not exceed 7"):
        make().check([1, 2, 3], SamplingParams(min_tokens=8, max_tokens=None))


def test_a_prompt_may_leave_room_for_one_token_and_no_less():
    make().check([1] * (MAX_LEN - 1), SamplingParams())
    with pytest.raises(ValueError, match="prompt has 10 tokens"):
        make().check([1] * MAX_LEN, SamplingParams())


def test_the_last_id_of_the_vocabulary_is_one_and_the_next_is_none():
    make().check([0, V - 1], SamplingParams(stop_token_ids=[V - 1], logit_bias={V - 1: 1.0}))
    with pytest.raises(ValueError, match="prompt holds token id 50"):
        make().check([V], SamplingParams())


def test_choice_i_has_the_seed_plus_i_and_beyond_the_largest_comes_the_smallest():
    assert [r.seed for r in requests(n=3, seed=5)] == [5, 6, 7]
    assert [r.seed for r in requests(n=3, seed=2**63 - 2)] == [2**63 - 2, 2**63 - 1, -(2**63)]


def test_choices_without_a_seed_have_one_by_their_number_of_arrival():
    first, second = requests(n=3), requests(n=2, number=3)
    assert len({r.seed for r in [*first, *second]}) == 5
    assert [r.seed for r in requests(n=5)] == [r.seed for r in [*first, *second]]
    assert not {r.seed for r in first} & {r.seed for r in requests(n=3, engine_seed=1)}


def test_choices_are_named_and_share_the_first_ones_prompt():
    first, *others = requests(n=3)
    assert [r.request_id for r in (first, *others)] == ["0_x", "1_x", "2_x"]
    assert first.fork_from is None and all(r.fork_from is first for r in others)
    assert [r.request_id for r in requests()] == ["x"]


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("own", [(), (3, 4), (EOS,)])
def test_the_users_stop_tokens_hold_whatever_becomes_of_the_models_own(own, ignore_eos):
    (request,) = requests(stop_token_ids=own, ignore_eos=ignore_eos)
    assert request.stop_token_ids == set(own) | (set() if ignore_eos else {EOS})


def test_a_bad_word_is_forbidden_at_the_start_of_a_text_and_after_a_space():
    """Without the marker that the tokenizer puts before a text."""
    (request,) = requests(bad_words=["ab", " c"])
    assert [list(word) for word in request.bad_words_token_ids] == [[1, 2], [0, 1, 2], [0, 3], [0, 3]]


def test_min_tokens_need_one_allowed_token_that_does_not_end_the_text():
    make().check([1], SamplingParams(min_tokens=1, allowed_token_ids=[EOS, 9]))
    make().check([1], SamplingParams(min_tokens=0, allowed_token_ids=[EOS]))
    with pytest.raises(ValueError, match="which min_tokens forbids"):
        make().check([1], SamplingParams(min_tokens=1, allowed_token_ids=[EOS]))


@pytest.mark.parametrize(
    "most, asked, fits", [(20, 20, True), (20, 21, False), (20, -1, False), (-1, -1, True), (V, -1, True)]
)
@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_minus_one_counts_as_the_whole_vocabulary(name, most, asked, fits):
    params = SamplingParams(**{name: asked})
    if fits:
        make(max_logprobs=most).check([1], params)
        return
    with pytest.raises(ValueError, match=rf"{name} \({asked}\) must be at most max_logprobs \(20\)"):
        make(max_logprobs=most).check([1], params)


def test_prompt_logprobs_need_every_prompt_token_computed():
    assert [requests(prompt_logprobs=k)[0].skip_prefix_cache for k in (None, 0, 3)] == [False, True, True]
