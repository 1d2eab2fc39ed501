"""DELTA, CUMULATIVE and FINAL_ONLY tell the same story, and a stream never has to take a character back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.sampling_params import RequestOutputKind, SamplingParams

PROMPT = [7, 0]
EOS = 1
DELTA, CUMULATIVE, FINAL_ONLY = (
    RequestOutputKind.DELTA,
    RequestOutputKind.CUMULATIVE,
    RequestOutputKind.FINAL_ONLY,
)

scripts = st.lists(st.integers(2, 280) | st.sampled_from([2, 3, EOS]), min_size=1, max_size=25)
fields = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 30), "ignore_eos": st.booleans()},
    optional={
        "stop": st.lists(st.text("abet h", min_size=1, max_size=4), max_size=3),
        "stop_token_ids": st.lists(st.integers(2, 280), max_size=20),
        "include_stop_str_in_output": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "min_tokens": st.integers(0, 1),
    },
)


def outputs_of(engine, drain, kind, **params):
    engine.add_request("x", PROMPT, SamplingParams(temperature=0, output_kind=kind, **params))
    return drain(engine)


@settings(max_examples=60)
@given(script=scripts, params=fields, words=st.none() | st.text("the cat", min_size=1, max_size=20))
def test_three_ways_to_tell_one_story(script, params, words, make_speaker, drain):
    engine = make_speaker(script, max_model_len=64)
    if words is not None:
        engine = make_speaker(engine.tokenizer.encode(words), max_model_len=64)
    deltas, cumulative, final = (
        outputs_of(engine, drain, kind, **params) for kind in (DELTA, CUMULATIVE, FINAL_ONLY)
    )
    assert len(final) == 1 and final[0].finished
    whole = final[0].outputs[0]
    assert "".join(output.outputs[0].text for output in deltas) == whole.text
    assert [token for output in deltas for token in output.outputs[0].token_ids] == whole.token_ids
    assert all(len(output.outputs[0].token_ids) == 1 for output in deltas)
    assert cumulative[-1].outputs == final[0].outputs
    for previous, now in zip(cumulative, cumulative[1:], strict=False):
        assert now.outputs[0].text.startswith(previous.outputs[0].text)
        assert now.outputs[0].token_ids[:-1] == previous.outputs[0].token_ids
    for told in (deltas, cumulative):
        assert [output.finished for output in told] == [False] * (len(told) - 1) + [True]
        assert [output.outputs[0].finish_reason for output in told[:-1]] == [None] * (len(told) - 1)
        assert told[-1].outputs[0].finish_reason == whole.finish_reason
        assert told[-1].outputs[0].stop_reason == whole.stop_reason
    check_the_end(engine, whole, params)


def check_the_end(engine, whole, params):
    """The text against all tokens decoded at once, and cut at the first stop string that is complete."""
    ids = whole.token_ids
    include = params.get("include_stop_str_in_output", False)
    if whole.finish_reason == "stop" and not isinstance(whole.stop_reason, str) and not include:
        ids = ids[:-1]
    text = engine.tokenizer.decode(ids, skip_special_tokens=params.get("skip_special_tokens", True))
    if isinstance(whole.stop_reason, str):
        assert whole.stop_reason in params["stop"]
        shown = whole.text + ("" if include else whole.stop_reason)
        assert text.startswith(shown) and shown.endswith(whole.stop_reason)
    else:
        assert text.rstrip("\ufffd") == whole.text.rstrip("\ufffd") and text.startswith(whole.text)
        if params.get("min_tokens", 0) == 0:
            assert not any(stop in whole.text for stop in params.get("stop", []))


@pytest.mark.parametrize("kind", [DELTA, CUMULATIVE, FINAL_ONLY])
def test_an_abort_tells_what_was_not_told_yet(kind, make_speaker):
    engine = make_speaker([0])
    words = engine.tokenizer.encode("the cat sat on the mat", add_special_tokens=False)
    engine = make_speaker(words)
    params = SamplingParams(temperature=0, max_tokens=50, stop="x" * 8, output_kind=kind)
    engine.add_request("x", PROMPT, params)
    told = [output for _ in range(5) for output in engine.step()]
    (last,) = engine.abort_request("x")
    expected = engine.tokenizer.decode(words[:5])
    if kind is DELTA:
        assert "".join(output.outputs[0].text for output in [*told, last]) == expected
        assert last.outputs[0].text == expected[-7:] and last.outputs[0].token_ids == []
    else:
        assert last.outputs[0].text == expected and last.outputs[0].token_ids == words[:5]
    assert len(told) == (0 if kind is FINAL_ONLY else 5)


def test_no_output_before_there_is_a_token(make_speaker):
    engine = make_speaker([9], max_num_batched_tokens=8)
    engine.add_request("x", [7] * 19 + [0], SamplingParams(temperature=0, max_tokens=2))
    assert [len(engine.step()) for _ in range(4)] == [0, 0, 1, 1]
