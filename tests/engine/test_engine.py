"""LLMEngine: why a request ends, what it says then, what is refused at the door, and that a refusal changes nothing."""

import math
import time

import numpy as np
import pytest

from minivllm.config import EngineConfig
from minivllm.core.scheduler import QueueFullError
from minivllm.engine import LLMEngine
from minivllm.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams

EOS, START = 1, 0
PROMPT = [7, START]


def greedy(**fields):
    return SamplingParams(temperature=0, **fields)


@pytest.fixture(scope="module")
def cat(make_speaker):
    """An engine that says "the cat sat on the mat<|end|>" to every prompt, over and over."""
    engine = make_speaker([0])
    words = engine.tokenizer.encode("the cat sat on the mat", add_special_tokens=False)
    return make_speaker([*words, EOS], max_model_len=64), words


# -- why it ends -------------------------------------------------------------------------------------------------------


def test_end_of_sequence(cat, answer, assert_idle):
    engine, words = cat
    output = answer(engine, PROMPT, greedy(max_tokens=50))
    (choice,) = output.outputs
    assert (choice.finish_reason, choice.stop_reason) == ("stop", None)
    assert choice.token_ids == [*words, EOS] and choice.text == "the cat sat on the mat"
    assert output.finished and choice.finished and output.prompt is None and output.prompt_token_ids == PROMPT
    assert_idle(engine)


def test_the_end_of_sequence_marker_is_shown_when_asked_for(cat, answer):
    engine, _ = cat
    params = greedy(max_tokens=50, include_stop_str_in_output=True, skip_special_tokens=False)
    assert answer(engine, PROMPT, params).outputs[0].text == "the cat sat on the mat<|end|>"


def test_ignore_eos_goes_on_to_the_length(cat, answer):
    engine, words = cat
    (choice,) = answer(engine, PROMPT, greedy(max_tokens=2 * len(words) + 2, ignore_eos=True)).outputs
    assert (choice.finish_reason, choice.stop_reason) == ("length", None)
    assert choice.token_ids == [*words, EOS] * 2
    assert choice.text == "the cat sat on the mat" * 2


def test_a_stop_token_id_ends_the_text_before_it(cat, answer):
    engine, words = cat
    for ignore_eos in (False, True):
        (choice,) = answer(
            engine, PROMPT, greedy(max_tokens=50, stop_token_ids=[words[3]], ignore_eos=ignore_eos)
        ).outputs
        assert (choice.finish_reason, choice.stop_reason) == ("stop", words[3])
        assert choice.token_ids == words[:4]
        assert choice.text == engine.tokenizer.decode(words[:3])
    params = greedy(max_tokens=50, stop_token_ids=[words[3]], include_stop_str_in_output=True)
    assert answer(engine, PROMPT, params).outputs[0].text == engine.tokenizer.decode(words[:4])


def test_the_end_of_sequence_is_a_stop_token_like_another_under_ignore_eos(cat, answer):
    engine, words = cat
    (choice,) = answer(engine, PROMPT, greedy(max_tokens=50, ignore_eos=True, stop_token_ids=[EOS])).outputs
    assert (choice.finish_reason, choice.stop_reason) == ("stop", EOS)
    assert choice.token_ids == [*words, EOS]


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stop", ["sat", " sat on", "t s", "cat sat on the mat", "the"])
def test_a_stop_string_ends_the_text_before_or_behind_it(cat, answer, assert_idle, stop, include):
    engine, words = cat
    text = "the cat sat on the mat"
    (choice,) = answer(
        engine, PROMPT, greedy(max_tokens=50, stop=["zebra", stop], include_stop_str_in_output=include)
    ).outputs
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    cut = text.index(stop) + (len(stop) if include else 0)
    assert choice.text == text[:cut]
    num_said = len(choice.token_ids)
    assert choice.token_ids == words[:num_said]
    said = [engine.tokenizer.decode(words[:k]) for k in (num_said - 1, num_said)]
    assert stop in said[1] and stop not in said[0]  # it ended with the token that completed the string
    assert_idle(engine)


def test_a_stop_string_that_comes_with_the_last_token_is_a_stop_and_not_a_length(cat, answer):
    engine, words = cat
    (choice,) = answer(engine, PROMPT, greedy(max_tokens=len(words), stop="mat")).outputs
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "mat")
    assert choice.text == "the cat sat on the "


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_max_tokens(cat, answer, max_tokens):
    engine, words = cat
    (choice,) = answer(engine, PROMPT, greedy(max_tokens=max_tokens)).outputs
    assert (choice.finish_reason, choice.stop_reason) == ("length", None)
    assert choice.token_ids == words[:max_tokens]
    assert choice.text == engine.tokenizer.decode(words[:max_tokens])


def test_what_a_stop_string_held_back_is_given_out_at_the_end(cat, answer):
    engine, words = cat
    (choice,) = answer(engine, PROMPT, greedy(max_tokens=3, stop="x" * 40)).outputs
    assert choice.text == engine.tokenizer.decode(words[:3])


@pytest.mark.parametrize("max_tokens", [None, 64, 10**12])
@pytest.mark.parametrize("length", [1, 30, 62, 63])
def test_the_context_is_the_last_limit_and_a_prompt_may_leave_room_for_one_token(
    cat, answer, assert_idle, length, max_tokens
):
    engine, _ = cat
    prompt = [7] * (length - 1) + [START]
    engine.add_request("looked at", prompt, greedy(max_tokens=max_tokens))
    assert engine.scheduler.requests["looked at"].max_tokens == 64 - length  # what other code may count on
    engine.abort_request("looked at")
    output = answer(engine, prompt, greedy(max_tokens=max_tokens, ignore_eos=True))
    assert output.prompt_token_ids == prompt
    assert len(output.outputs[0].token_ids) == 64 - length
    assert output.outputs[0].finish_reason == "length"
    assert_idle(engine)


def test_abort_while_waiting_and_while_running(cat, assert_idle):
    engine, words = cat
    engine.add_request("waiting", PROMPT, greedy(max_tokens=50))
    (output,) = engine.abort_request("waiting")
    assert output.finished and output.outputs[0].finish_reason == "abort" and output.outputs[0].text == ""
    engine.add_request("running", PROMPT, greedy(max_tokens=50))
    for _ in range(4):
        engine.step()
    (output,) = engine.abort_request(["nobody", "running", "running"])
    choice = output.outputs[0]
    assert (choice.finish_reason, choice.stop_reason) == ("abort", None)
    assert choice.token_ids == words[:4] and choice.text == engine.tokenizer.decode(words[:4])
    assert engine.abort_request("running") == [] and engine.abort_request([]) == []
    assert_idle(engine)


def test_min_tokens_forbid_every_stop_token_until_then(make_rule_engine, answer):
    """The model would end at once; forbidden to, it says its second choice."""
    logits = np.full(296, -50.0)
    logits[[EOS, 9, 5]] = 3.0, 2.0, 1.0
    engine = make_rule_engine(lambda context: logits)
    for min_tokens in range(4):
        (choice,) = answer(engine, PROMPT, greedy(min_tokens=min_tokens)).outputs
        assert choice.token_ids == [9] * min_tokens + [EOS] and choice.finish_reason == "stop"
        (choice,) = answer(engine, PROMPT, greedy(min_tokens=min_tokens, stop_token_ids=[9, 5])).outputs
        assert len(choice.token_ids) == min_tokens + 1
        assert not {EOS, 9, 5} & set(choice.token_ids[:-1])
    (choice,) = answer(engine, PROMPT, greedy(min_tokens=3, max_tokens=3)).outputs
    assert choice.token_ids == [9] * 3 and choice.finish_reason == "length"


def test_min_tokens_also_hold_for_stop_strings(cat, answer):
    engine, words = cat
    first = next(k for k in range(1, 50) if "at" in engine.tokenizer.decode(words[:k]))
    for min_tokens in range(first + 1):
        (choice,) = answer(
            engine, PROMPT, greedy(max_tokens=50, min_tokens=min_tokens, stop=["at", "x" * 30])
        ).outputs
        assert (choice.finish_reason, choice.stop_reason) == ("stop", "at")
        expected = "the c" if min_tokens < first else "the cat s"
        assert choice.text == expected and len(choice.token_ids) > min_tokens


def test_a_request_that_forbids_every_token_still_ends(make_rule_engine, answer, assert_idle):
    engine = make_rule_engine(lambda context: 9)
    for temperature in (0.0, 1.0):
        params = SamplingParams(
            temperature=temperature, stop_token_ids=range(296), min_tokens=3, max_tokens=3
        )
        assert answer(engine, PROMPT, params).outputs[0].finish_reason in ("stop", "length")
    assert_idle(engine)


def test_a_timeout_ends_a_request_like_an_abort(cat, assert_idle):
    engine, words = cat
    engine.add_request("slow", PROMPT, greedy(max_tokens=50), timeout=0.05)
    engine.add_request("patient", PROMPT, greedy(max_tokens=50), timeout=1e6)
    engine.step()
    time.sleep(0.06)
    outputs = {output.request_id: output.outputs[0] for output in engine.step()}
    assert outputs["slow"].finish_reason == "abort" and outputs["slow"].token_ids == words[:1]
    assert outputs["patient"].finish_reason is None
    engine.abort_request("patient")
    assert_idle(engine)


# -- text in and out ---------------------------------------------------------------------------------------------------


def test_text_in_text_out(cat, answer):
    engine, _ = cat
    for prompt in ("hello<|start|>", {"prompt": "hello<|start|>"}):
        output = answer(engine, prompt, greedy(max_tokens=50))
        assert output.prompt == "hello<|start|>"
        assert output.prompt_token_ids == engine.tokenizer.encode("hello<|start|>")
        assert output.outputs[0].text == "the cat sat on the mat"
    output = answer(engine, {"prompt": "not read", "prompt_token_ids": PROMPT}, greedy(max_tokens=1))
    assert output.prompt is None and output.prompt_token_ids == PROMPT


def test_without_detokenize_there_is_no_text(cat, answer):
    engine, words = cat
    (choice,) = answer(engine, PROMPT, greedy(max_tokens=50, detokenize=False)).outputs
    assert choice.text == "" and choice.token_ids == [*words, EOS]


def test_ids_that_the_tokenizer_does_not_know_are_no_text_and_no_error(make_speaker, answer):
    engine = make_speaker([292, 11, 295, EOS])
    (choice,) = answer(engine, [294, 295, START], greedy()).outputs
    assert choice.token_ids == [292, 11, 295, EOS] and choice.text == engine.tokenizer.decode([11])


def test_a_character_that_never_becomes_whole_is_not_shown(make_speaker, answer):
    engine = make_speaker([0])
    smile = engine.tokenizer.encode("🙂", add_special_tokens=False)
    letter = engine.tokenizer.encode("a", add_special_tokens=False)
    byte = engine.tokenizer.convert_tokens_to_ids("ð")  # 0xF0, how most emoji begin
    engine = make_speaker([*letter, byte, EOS])
    assert answer(engine, PROMPT, greedy()).outputs[0].text == "a"
    assert answer(make_speaker([*letter, *smile, EOS]), PROMPT, greedy()).outputs[0].text == "a🙂"


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_seeds(make_rule_engine, answer):
    """The same seed says the same; other seeds differ; requests without a seed differ from one another."""
    flat = np.zeros(296)
    engine = make_rule_engine(lambda context: flat)

    def say(**fields):
        params = SamplingParams(max_tokens=12, ignore_eos=True, **fields)
        return tuple(answer(engine, PROMPT, params).outputs[0].token_ids)

    seeded = {seed: say(seed=seed) for seed in (0, 1, 2, 2**63 - 1, -(2**63))}
    assert len(set(seeded.values())) == len(seeded)
    assert all(say(seed=seed) == said for seed, said in seeded.items())
    unseeded = {say() for _ in range(5)}
    assert len(unseeded) == 5 and not unseeded & set(seeded.values())
    assert say(seed=-1) not in unseeded  # -1 means no seed
    fresh = make_rule_engine(lambda context: flat)
    assert fresh.config.seed == engine.config.seed
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    assert [answer(e, PROMPT, params).outputs[0].token_ids for e in (fresh,)] == [
        answer(make_rule_engine(lambda context: flat), PROMPT, params).outputs[0].token_ids
    ]
    other = make_rule_engine(lambda context: flat, seed=1)
    assert answer(other, PROMPT, params).outputs[0].token_ids != list(seeded[0])


def test_the_engines_draws_follow_the_exact_softmax(make_rule_engine, drain, sampling_oracle):
    """Pearson's chi-square of 3000 first tokens of a batch, within 4 standard deviations of its mean."""
    logits = np.full(296, -30.0)
    logits[2:10] = [0.3, 2.0, -1.0, 1.2, 0.0, -0.4, 1.9, 0.7]
    engine = make_rule_engine(
        lambda context: logits, max_num_seqs=500, max_num_batched_tokens=1000, num_gpu_blocks_override=600
    )
    for seed in range(3000):
        engine.add_request(str(seed), PROMPT, SamplingParams(seed=seed, max_tokens=1))
    tokens = [output.outputs[0].token_ids[0] for output in drain(engine)]
    expected = [p * 3000 for p in sampling_oracle.softmax(logits[2:10].tolist())]
    counts = np.bincount(tokens, minlength=10)[2:]
    assert counts.sum() == 3000
    statistic = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    assert statistic < 7 + 4 * math.sqrt(14)


# -- the door ----------------------------------------------------------------------------------------------------------

REFUSED_PROMPTS = [
    ("", "prompt is empty"),
    ([], "prompt is empty"),
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt_token_ids": []}, "prompt is empty"),
    ([5, 296], "prompt holds token id 296, and the model's ids are 0..295"),
    ([5, -1], "prompt holds token id -1"),
    ([2**70], "prompt holds token id"),
    ([5] * 64, "prompt has 64 tokens; with max_model_len 64 it may have at most 63"),
    ([5] * 100_000, "prompt has 100000 tokens"),
    ("word " * 5000, "it may have at most 63"),
    (None, "prompt must be a string"),
    (5, "prompt must be a string"),
    (b"abc", "prompt must be a string"),
    (bytearray(b"abc"), "prompt must be a string"),
    ([True], "prompt must be a string"),
    ([1.0], "prompt must be a string"),
    (["a"], "prompt must be a string"),
    ([[1, 2]], "prompt must be a string"),
    ({}, "prompt must be a string"),
    ({"text": "a"}, "prompt must be a string"),
    ({"prompt": None}, "prompt must be a string"),
    ("half a surrogate \ud83d", "prompt is no valid Unicode"),
]
REFUSED_PARAMS = [
    ({"stop_token_ids": [296]}, "stop_token_ids holds token id 296, and the model's ids are 0..295"),
    ({"allowed_token_ids": [5, 10**9]}, "allowed_token_ids holds token id 1000000000"),
    ({"logit_bias": {296: 1.0}}, "logit_bias holds token id 296"),
    ({"min_tokens": 63, "max_tokens": None}, r"min_tokens \(63\) must not exceed 62"),
    ({"min_tokens": 10**9, "max_tokens": 10**9}, r"min_tokens \(1000000000\) must not exceed 62"),
    ({"logprobs": 21}, r"logprobs \(21\) must be at most max_logprobs \(20\)"),
    ({"logprobs": -1}, r"logprobs \(-1\) must be at most max_logprobs \(20\)"),
    ({"prompt_logprobs": 10**6}, "prompt_logprobs"),
    ({"allowed_token_ids": [EOS], "min_tokens": 1}, "allowed_token_ids holds only tokens that end the text"),
    ({"truncate_prompt_tokens": 0}, "prompt is empty"),
]
REFUSED_CALLS = [
    ({"request_id": ""}, "request_id must be a non-empty string"),
    ({"request_id": 5}, "request_id must be a non-empty string"),
    ({"request_id": ["a"]}, "request_id must be a non-empty string"),
    ({"request_id": "busy"}, "request_id 'busy' is in use"),
    ({"request_id": "1_several"}, "request_id '1_several' is in use"),
    ({"sampling_params": {}}, "sampling_params must be SamplingParams"),
    ({"sampling_params": {"temperature": 0}}, "sampling_params must be SamplingParams"),
    ({"priority": "high"}, "priority must be an integer"),
    ({"priority": True}, "priority must be an integer"),
    ({"priority": 1.5}, "priority must be an integer"),
    ({"cache_salt": ""}, "cache_salt must be a non-empty string"),
    ({"cache_salt": 123}, "cache_salt must be a non-empty string"),
    ({"cache_salt": "\ud800"}, "cache_salt is no valid Unicode"),
    ({"timeout": 0}, "timeout must be a number of seconds above 0"),
    ({"timeout": -1}, "timeout must be"),
    ({"timeout": math.nan}, "timeout must be"),
    ({"timeout": math.inf}, "timeout must be"),
    ({"timeout": "5"}, "timeout must be"),
    ({"timeout": True}, "timeout must be"),
    ({"sampling_params": BeamSearchParams(beam_width=9, max_tokens=4)}, r"beam_width \(9\) must be at most"),
]
REFUSED = [
    *(({"prompt": prompt}, sentence) for prompt, sentence in REFUSED_PROMPTS),
    *(({"sampling_params": fields}, sentence) for fields, sentence in REFUSED_PARAMS),
    *REFUSED_CALLS,
]


def state(engine):
    """All that a refused request could have changed."""
    return (
        engine.stats(),
        [r.request_id for r in engine.scheduler.waiting],
        [r.request_id for r in engine.scheduler.running],
        sorted(engine.scheduler.requests),
        sorted(engine.output_processor._calls),
        sorted(engine.beam_searcher._searches),
        engine._num_requests,
        engine.kv_cache_manager.pool.num_free_blocks,
    )


@pytest.fixture(scope="module")
def busy(make_speaker):
    """An engine in the midst of work."""
    engine = make_speaker([9], max_model_len=64)
    engine.add_request("busy", PROMPT, greedy(max_tokens=60))
    engine.add_request("several", PROMPT, SamplingParams(n=2, max_tokens=60))
    engine.step()
    engine.step()
    return engine


@pytest.mark.parametrize("wrong, sentence", REFUSED, ids=[f"{number}" for number in range(len(REFUSED))])
def test_a_refusal_is_one_sentence_and_leaves_the_engine_as_it_was(busy, wrong, sentence):
    call = {"request_id": "new", "prompt": PROMPT, "sampling_params": SamplingParams()} | wrong
    if ({"sampling_params": call["sampling_params"]}, sentence) in REFUSED[len(REFUSED_PROMPTS) :][
        : len(REFUSED_PARAMS)
    ]:
        call["sampling_params"] = SamplingParams(**call["sampling_params"])
    before = state(busy)
    with pytest.raises(ValueError, match=sentence) as caught:
        busy.add_request(call.pop("request_id"), call.pop("prompt"), **call)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert state(busy) == before


def test_after_all_refusals_the_engine_serves_on(busy, drain, assert_idle):
    busy.add_request("after", PROMPT, greedy(max_tokens=3))
    last = {output.request_id: output for output in drain(busy)}
    assert last["after"].outputs[0].token_ids == [9, 9, 9] and len(last["busy"].outputs[0].token_ids) == 60
    assert_idle(busy)


def test_a_full_queue_is_its_own_error_and_changes_nothing(make_speaker, drain, assert_idle):
    engine = make_speaker([9], max_num_queued_reqs=2)
    engine.add_request("a", PROMPT)
    before = state(engine)
    with pytest.raises(QueueFullError, match="max_num_queued_reqs is 2"):
        engine.add_request("b", PROMPT, SamplingParams(n=2))
    assert state(engine) == before
    engine.add_request("c", PROMPT)
    drain(engine)
    assert_idle(engine)


def test_an_id_is_free_again_after_the_last_output(make_speaker, drain):
    engine = make_speaker([9])
    for _ in range(3):
        engine.add_request("again", PROMPT, greedy(max_tokens=2))
        with pytest.raises(ValueError, match="in use"):
            engine.add_request("again", PROMPT)
        engine.step()
        engine.abort_request("again")
        engine.add_request("again", PROMPT, greedy(max_tokens=4))  # at once, before the next step
        assert drain(engine)[-1].outputs[0].token_ids == [9] * 4


def test_ids_that_look_like_those_of_choices_and_beams_do_not_disturb_them(
    make_rule_engine, drain, assert_idle
):
    flat = np.zeros(296)
    engine = make_rule_engine(lambda context: flat, max_num_seqs=20)
    alone = {}
    for params in (
        SamplingParams(n=3, seed=1, max_tokens=6, ignore_eos=True),
        BeamSearchParams(3, max_tokens=4),
    ):
        engine.add_request("a", PROMPT, params)
        alone[type(params)] = [choice.token_ids for choice in drain(engine)[-1].outputs]
        for number in (3, 4, 5, 12):
            engine.add_request(f"{number}_a", PROMPT, greedy(max_tokens=8))
        engine.add_request("a", PROMPT, params)
        last = {output.request_id: output for output in drain(engine)}
        assert [choice.token_ids for choice in last["a"].outputs] == alone[type(params)]
        assert all(len(last[f"{number}_a"].outputs[0].token_ids) == 8 for number in (3, 4, 5, 12))
        assert_idle(engine)


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_a_model_without_a_tokenizer_takes_and_gives_ids(tiny_model, tmp_path, answer):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    engine = LLMEngine(EngineConfig(model=str(tmp_path), num_gpu_blocks_override=20))
    assert engine.tokenizer is None
    output = answer(engine, PROMPT, greedy(max_tokens=3))
    assert len(output.outputs[0].token_ids) == 3 and output.outputs[0].text == ""
    for prompt, fields, sentence in [
        ("text", {}, "prompt is text, but the model folder has no tokenizer"),
        (PROMPT, {"stop": "x"}, "stop needs a tokenizer"),
        (PROMPT, {"bad_words": ["x"]}, "bad_words needs a tokenizer"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            engine.add_request("x", prompt, SamplingParams(**fields))
    with pytest.raises(ValueError, match="tokenizer folder .* holds none of tokenizer.json"):
        LLMEngine(EngineConfig(model=str(tiny_model), tokenizer=str(tmp_path)))


@pytest.mark.parametrize(
    "fields, sentence",
    [
        (
            {"max_model_len": 257},
            r"max_model_len \(257\) must be at most 256, the model's max_position_embeddings",
        ),
        (
            {"max_model_len": 100, "num_gpu_blocks_override": 3},
            r"max_model_len \(100\) does not fit: .* 32 tokens",
        ),
        (
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 64},
            r"max_num_batched_tokens \(64\) must be at least max_model_len \(256\) when enable_chunked_prefill is off",
        ),
        ({"num_gpu_blocks_override": None, "kv_cache_memory_bytes": 1000}, "at least 2 are needed"),
        ({"num_gpu_blocks_override": 10**13}, "which this machine does not give"),
        ({"device": "toaster"}, "device must be auto, cpu or cuda"),
        ({"preemption_mode": "swap"}, "preemption_mode 'swap' needs swap_space"),
    ],
)
def test_settings_that_do_not_suit_the_model_or_the_machine(make_engine, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_engine(**fields)


def test_what_was_not_asked_for_is_made_to_fit(make_engine, answer):
    engine = make_engine(num_gpu_blocks_override=4, block_size=8)
    assert engine.max_model_len == 24
    assert "4 blocks of 8 tokens = 24 tokens" in engine.describe_kv_cache()
    assert len(answer(engine, [5] * 23, greedy(max_tokens=None)).outputs[0].token_ids) == 1


@pytest.mark.parametrize("memory", ["the KV cache", "the swap space"])
def test_a_request_that_holds_blocks_when_all_have_ended_is_told(make_speaker, memory):
    engine = make_speaker([9], swap_space=0.001, preemption_mode="swap")
    engine.add_request("forgotten", [7, START], greedy(max_tokens=4))
    engine.step()
    manager = engine.kv_cache_manager
    if memory == "the swap space":
        assert manager.swap_out(engine.scheduler.requests["forgotten"])
    manager.check_integrity()  # no block is lost: somebody has it
    with pytest.raises(AssertionError, match="forgotten" if memory == "the KV cache" else memory):
        engine.check_integrity()


def test_numbers_for_the_gauges(make_speaker, drain, assert_idle):
    engine = make_speaker([9], max_num_seqs=2, block_size=4, num_gpu_blocks_override=21, max_model_len=64)
    for name, token in (("a", 7), ("b", 8), ("c", 7)):
        engine.add_request(name, [token] * 4 + [START], greedy(max_tokens=3))
    assert engine.stats().num_waiting_reqs == 3 and engine.has_unfinished_requests()
    engine.step()
    stats = engine.stats()
    assert (stats.num_running_reqs, stats.num_waiting_reqs) == (2, 1)
    assert (
        stats.kv_cache_usage == pytest.approx((20 - stats.num_free_blocks) / 20)
        and stats.num_free_blocks < 20
    )
    assert stats.num_gpu_blocks == 21
    drain(engine)
    stats = engine.stats()
    assert stats.num_prompt_tokens == 15 and stats.num_generation_tokens == 9
    assert stats.finished == {"length": 3} and stats.num_preemptions == 0
    assert stats.prefix_cache_hits == 4  # a's first block, for c
    assert_idle(engine)


def test_moments_come_in_order(make_speaker, drain):
    engine = make_speaker([9])
    start = time.monotonic()
    engine.add_request("a", PROMPT, greedy(max_tokens=3, output_kind=RequestOutputKind.CUMULATIVE))
    outputs = drain(engine)
    metrics = outputs[-1].metrics
    moments = (
        metrics.arrival_time,
        metrics.first_scheduled_time,
        metrics.first_token_time,
        metrics.finished_time,
    )
    in_order = [start, *moments, time.monotonic()]
    assert in_order == sorted(in_order)
    assert outputs[0].metrics.finished_time is None
    assert all(output.metrics.first_token_time == metrics.first_token_time for output in outputs)


def test_cached_prompt_tokens_are_told(make_speaker, answer):
    engine = make_speaker([9], block_size=4)
    prompt = [7] * 9 + [START]
    assert [answer(engine, prompt, greedy(max_tokens=1)).num_cached_tokens for _ in range(2)] == [0, 8]
    engine.add_request("salted", prompt, greedy(max_tokens=1), cache_salt="mine")
    assert engine.step()[0].num_cached_tokens == 0
