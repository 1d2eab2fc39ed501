"""Law 1 under speculation: greedy answers are those of the plain engine, token for token, whatever happens around."""

import dataclasses
import importlib.util
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.sampling_params import BeamSearchParams, SamplingParams, StructuredOutputsParams

_path = Path(__file__).parents[1] / "engine" / "test_stream_of_requests.py"
_spec = importlib.util.spec_from_file_location("random_streams", _path)
random_streams = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(random_streams)
SEEN = Counter()
HEADS_SEEN = Counter()


def echo(context):
    """Logits that look like nothing, but depend on little: texts repeat themselves for a while, and then do not."""
    seed = zlib.crc32(np.array([context[-1], len(context) // 12]).tobytes()) % 6
    return np.random.default_rng(seed).normal(0, 3, 296)


def nearly_echo(context):
    """What drafts for `echo`: right most of the time."""
    return echo(context) if zlib.crc32(np.array(context).tobytes()) % 4 else echo([*context, 3])


def attentive(context):
    """Logits that depend on the last few tokens and on how many there are: no two positions think alike."""
    seed = zlib.crc32(np.array([*context[-4:], len(context)]).tobytes())
    return np.random.default_rng(seed).normal(0, 3, 296)


def ngram(num_tokens, shortest=1, longest=3, **more):
    return {
        "method": "ngram",
        "num_speculative_tokens": num_tokens,
        "prompt_lookup_min": shortest,
        "prompt_lookup_max": longest,
        **more,
    }


def certain(number, job):
    """Every other request is greedy; the others are drawn from a distribution that has one token left."""
    how = {"temperature": 0.0} if number % 2 else {"temperature": 0.8, "top_k": 1}
    return dataclasses.replace(job, fields={**job.fields, **how})


@settings(max_examples=40)
@given(
    stream=random_streams.streams(), num_tokens=st.integers(1, 5), limit=st.sampled_from([None, None, 0.5])
)
@pytest.mark.parametrize("method", ["ngram", "draft_model", "medusa"])
def test_any_stream(
    method, stream, num_tokens, limit, make_rule_engine, make_rule_pair, make_rule_heads, answer, assert_idle
):
    """Streams with chunked prompts, preemption, swapping, prefix hits, stop tokens, stop strings and aborts."""
    config, jobs, num_swap_blocks = stream
    jobs = [certain(number, job) for number, job in enumerate(jobs)]
    more = {"max_rejected_per_token": limit}
    if method == "ngram":
        config = config | random_streams.swapping(config, num_swap_blocks, bytes_per_token=16)
        engine = make_rule_engine(echo, speculative_config=ngram(num_tokens, **more), **config)
    elif method == "medusa":
        config = config | random_streams.swapping(config, num_swap_blocks, bytes_per_token=16)
        engine = make_rule_heads(echo, [nearly_echo], num_tokens, more, **config)
    else:
        config = config | random_streams.swapping(config, num_swap_blocks, bytes_per_token=32)
        engine = make_rule_pair(echo, nearly_echo, num_tokens, more, **config)
    last = random_streams.play(engine, jobs)
    lonely = make_rule_engine(echo, enable_prefix_caching=False)
    random_streams.check_stream(jobs, last, lambda job: answer(lonely, job.prompt, job.params).outputs[0])
    assert_idle(engine)
    stats = engine.stats()
    said = sum(len(output.outputs[0].token_ids) for output in last.values())
    assert stats.num_generation_tokens == said
    assert sum(stats.num_accepted_tokens_per_pos) == stats.num_accepted_tokens <= stats.num_draft_tokens
    if limit is not None:
        num_rejected = stats.num_draft_tokens - stats.num_accepted_tokens
        assert num_rejected <= len(jobs) * num_tokens + limit * said
    SEEN["swapped"] += stats.num_preemptions > 0 and num_swap_blocks > 0
    SEEN["accepted"] += stats.num_accepted_tokens > 0
    SEEN["rejected"] += stats.num_draft_tokens > stats.num_accepted_tokens
    SEEN["preempted"] += stats.num_preemptions > 0 and stats.num_draft_tokens > 0
    SEEN["hit"] += stats.prefix_cache_hits > 0 and stats.num_draft_tokens > 0


def test_a_greedy_request_drafts_on_where_a_random_one_has_ended(make_rule_engine, make_rule_pair, answer):
    """Its last drafts come from steps of the draft model in which every row is greedy; the first ones do not."""
    engine = make_rule_pair(echo, nearly_echo, 4)
    for name, how in [
        ("drawn", {"temperature": 0.8, "top_k": 1, "max_tokens": 4}),
        ("greedy", {"temperature": 0}),
    ]:
        engine.add_request(name, [5, 6, 7], SamplingParams(**{"max_tokens": 30, **how}))
    last = {}
    while engine.has_unfinished_requests():
        last.update({output.request_id: output for output in engine.step()})
    lonely = make_rule_engine(echo)
    expected = answer(lonely, [5, 6, 7], SamplingParams(temperature=0, max_tokens=30)).outputs[0].token_ids
    assert last["greedy"].outputs[0].token_ids == expected
    assert last["drawn"].outputs[0].token_ids == expected[:4]


def test_the_streams_reach_the_corners():
    if not SEEN:
        pytest.skip("looks at what the test above has seen, which did not run")
    assert min(SEEN[name] for name in ("accepted", "rejected", "preempted", "hit")) >= 3, SEEN


@settings(max_examples=120)
@given(stream=random_streams.streams(), num_tokens=st.integers(2, 5))
def test_a_head_always_finds_the_state_of_the_newest_token(stream, num_tokens, make_rule_heads, assert_idle):
    """The first head thinks as the model does, so its drafts are right, all of them: behind a prefix hit, a preemption,
    a prompt in chunks or rejected drafts, too. The other heads are wrong now and then, so that drafts are rejected."""
    config, jobs, num_swap_blocks = stream
    jobs = [certain(number, job) for number, job in enumerate(jobs)]
    config = config | random_streams.swapping(config, num_swap_blocks, bytes_per_token=16)
    engine = make_rule_heads(attentive, [attentive, nearly_echo], num_tokens, **config)
    random_streams.play(engine, jobs)
    assert_idle(engine)
    stats = engine.stats()
    assert sum(stats.num_accepted_tokens_per_pos[:1]) == stats.num_drafts
    HEADS_SEEN["drafts"] += stats.num_drafts > 0
    HEADS_SEEN["rejected"] += stats.num_draft_tokens > stats.num_accepted_tokens
    HEADS_SEEN["preempted"] += stats.num_preemptions > 0 and stats.num_drafts > 0
    HEADS_SEEN["hit"] += stats.prefix_cache_hits > 0 and stats.num_drafts > 0


def test_the_streams_with_heads_reach_the_corners():
    if not HEADS_SEEN:
        pytest.skip("looks at what the test above has seen, which did not run")
    assert min(HEADS_SEEN[name] for name in ("drafts", "rejected", "preempted", "hit")) >= 3, HEADS_SEEN


def test_a_text_that_repeats_itself_takes_few_steps(make_rule_engine, answer):
    """Period 3: from the second time on, every draft is right."""
    engine = make_rule_engine(lambda c: 10 + len(c) % 3, speculative_config=ngram(4))
    engine.add_request("a", [10, 11, 12, 10], SamplingParams(temperature=0, max_tokens=41))
    num_steps = 0
    while engine.has_unfinished_requests():
        engine.step()
        num_steps += 1
    stats = engine.stats()
    assert num_steps <= 12 and stats.num_accepted_tokens == stats.num_draft_tokens >= 30
    assert stats.num_accepted_tokens_per_pos[0] == stats.num_drafts


def test_rejected_drafts_leave_no_block_behind(make_rule_engine):
    """After every step a request holds exactly the blocks of its computed tokens; only full ones can be found."""
    engine = make_rule_engine(
        lambda c: 7 if len(c) % 2 else 20 + len(c), block_size=2, speculative_config=ngram(5)
    )
    engine.add_request("a", [7, 8, 7, 9, 7, 8], SamplingParams(temperature=0, max_tokens=30))
    while engine.has_unfinished_requests():
        engine.step()
        engine.kv_cache_manager.check_integrity()
        for request in engine.scheduler.running:
            table = engine.kv_cache_manager.tables()[request.request_id]
            assert len(table) == -(-request.num_computed_tokens // 2)
            num_full = request.num_computed_tokens // 2
            assert [b.block_hash is not None for b in table] == [i < num_full for i in range(len(table))]
    assert engine.stats().num_draft_tokens > engine.stats().num_accepted_tokens


PARAMETERS = [
    {"n": 3, "temperature": 0.9, "top_k": 1},
    {"logprobs": 2},
    {"prompt_logprobs": 1},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.4},
    {"min_tokens": 9, "stop_token_ids": list(range(2, 60))},
    {"bad_words": ["a", "th", "e "]},
    {"logit_bias": {17: 9.0, 33: 8.0, 40: 8.5}},
    {"allowed_token_ids": list(range(20, 29))},
    {"stop": ["a", "e"], "logprobs": 0},
    {"stop": ["a", "e"], "include_stop_str_in_output": True, "min_tokens": 4},
    {"structured_outputs": StructuredOutputsParams(regex="(ab|ba){3,9}c")},
    {"structured_outputs": StructuredOutputsParams(choice=["ababab", "abababa", "bababa"])},
]


@pytest.mark.parametrize("fields", PARAMETERS, ids=lambda fields: "-".join(fields))
@pytest.mark.parametrize("rule", ["echo", "tiny"])
def test_every_parameter(fields, rule, make_rule_engine, make_engine, answer, assert_idle):
    """The same output to the last field, with drafts accepted on the way somewhere among the prompts."""
    make = (lambda **f: make_rule_engine(echo, **f)) if rule == "echo" else make_engine
    plain, speculative = make(), make(speculative_config=ngram(4))
    for prompt in ([5, 6, 7, 5, 6], [66, 67, 66, 67, 66], [99]):
        params = SamplingParams(**{"temperature": 0, "max_tokens": 24, **fields})
        said, expected = (answer(engine, prompt, params) for engine in (speculative, plain))
        assert [c.token_ids for c in said.outputs] == [c.token_ids for c in expected.outputs]
        assert [c.text for c in said.outputs] == [c.text for c in expected.outputs]
        assert [c.finish_reason for c in said.outputs] == [c.finish_reason for c in expected.outputs]
        assert [c.stop_reason for c in said.outputs] == [c.stop_reason for c in expected.outputs]
        if "logprobs" in fields:
            assert [list(d) for d in said.outputs[0].logprobs] == [
                list(d) for d in expected.outputs[0].logprobs
            ]
            assert said.outputs[0].cumulative_logprob == pytest.approx(
                expected.outputs[0].cumulative_logprob, abs=1e-4
            )
    assert speculative.stats().num_draft_tokens > 0 or "stop" in fields
    assert_idle(speculative)


def test_nothing_is_said_behind_a_stop_string(make_rule_engine, answer, assert_idle):
    """The stop string is completed in the middle of accepted drafts; what they say behind it is void."""
    prompt = [70 + i % 5 for i in range(11)]
    params = SamplingParams(temperature=0, max_tokens=20, stop="i", logprobs=0)
    engines = [
        make_rule_engine(lambda c: 70 + len(c) % 5, **f) for f in ({"speculative_config": ngram(4)}, {})
    ]
    said, expected = (answer(engine, prompt, params) for engine in engines)
    assert said.outputs == expected.outputs and said.outputs[0].stop_reason == "i"
    stats = engines[0].stats()
    num_said = len(said.outputs[0].token_ids)
    assert stats.num_generation_tokens == num_said < 1 + stats.num_accepted_tokens + stats.num_drafts
    assert_idle(engines[0])


def test_the_scheduler_takes_no_more_drafts_than_may_still_be_said(make_rule_engine):
    engine = make_rule_engine(echo)
    engine.add_request("a", [5, 6], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    engine.step()
    engine.scheduler.update_draft_token_ids({"a": [9] * 8, "unknown": [9]})
    (request,) = engine.scheduler.running
    assert request.spec_token_ids == [9] * 3  # one was said, and verification adds one


def test_drafts_for_which_there_is_no_block_are_left_out(make_rule_engine):
    """A guess is not worth a preemption: what is drafted for all together fits into the blocks that are free."""
    engine = make_rule_engine(echo, block_size=2, num_gpu_blocks_override=8, max_model_len=12)
    for first in (5, 8):
        params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
        engine.add_request(f"{first}", [first, 6, 7], params)
    engine.step()  # 3 tokens each in 2 blocks each, and a fourth is known: 3 blocks of 7 are free
    engine.scheduler.update_draft_token_ids({"5": [9] * 5, "8": [9] * 5})
    drafts = [request.spec_token_ids for request in engine.scheduler.running]
    assert drafts == [[9] * 5, []]  # 9 tokens in 5 blocks: nothing is left for the other
    engine.step()
    assert engine.stats().num_preemptions == 0


def test_drafts_that_did_not_fit_into_a_step_are_forgotten(make_rule_engine):
    """They were guessed for another position than the one that comes next."""
    engine = make_rule_engine(echo, max_num_batched_tokens=3, max_num_seqs=1)
    engine.add_request("a", [5, 6], SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))
    engine.step()
    engine.scheduler.update_draft_token_ids({"a": [9] * 6})
    output = engine.scheduler.schedule()
    assert output.spec_token_ids == {"a": [9, 9]}  # the last token, and two drafts
    engine.scheduler.update_from_output(output, {"a": [9, 9, 7]})
    (request,) = engine.scheduler.running
    assert request.spec_token_ids == [] and request.num_tokens_with_spec == request.num_tokens == 6


def test_a_preempted_request_has_no_drafts(make_rule_engine):
    """They were guessed for the step that it was turned out of; when it comes back it is read anew."""
    room = {
        "block_size": 4,
        "num_gpu_blocks_override": 5,
        "max_model_len": 16,
        "enable_prefix_caching": False,
    }
    engine = make_rule_engine(echo, **room)
    for name, length in (("a", 7), ("b", 5)):
        params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
        engine.add_request(name, list(range(5, 5 + length)), params)
    engine.step()
    engine.step()  # 8 and 6 tokens are computed, in 4 blocks: all that there are
    engine.scheduler.update_draft_token_ids({"b": [9]})
    first, second = engine.scheduler.running
    assert second.spec_token_ids == [9]
    output = engine.scheduler.schedule()  # the first needs one more block
    assert list(output.preempted_request_ids) == ["b"] and not output.spec_token_ids
    assert first.spec_token_ids == second.spec_token_ids == []


def test_a_beam_is_never_drafted_for(make_rule_engine):
    """Its next token is chosen by the search, not by the sampler, so nobody could say which draft was right."""
    engine = make_rule_engine(
        lambda c: 10 + len(c) % 3, speculative_config=ngram(3), num_gpu_blocks_override=99
    )
    runner, drafted = engine.executor.runner, set()
    execute = runner.execute_model

    def spy(scheduler_output):
        output = execute(scheduler_output)
        drafted.update(output.draft_token_ids)
        return output

    runner.execute_model = spy
    prompt = [10, 11, 12, 10, 11, 12, 10]
    engine.add_request("beams", prompt, BeamSearchParams(2, max_tokens=8, ignore_eos=True))
    engine.add_request("greedy", prompt, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    for _ in range(4):
        engine.step()
    assert drafted == {"greedy"}


@settings(max_examples=15)
@given(
    width=st.integers(1, 4),
    prompts=st.lists(st.lists(st.integers(3, 9), min_size=2, max_size=12), min_size=2, max_size=4),
    num_drafts=st.integers(1, 4),
)
def test_beams_run_beside_requests_with_drafts_and_have_none(
    make_rule_engine, drain, assert_idle, width, prompts, num_drafts
):
    """The first prompt is searched with beams, the others are answered greedily, with and without drafts."""
    beams = BeamSearchParams(width, max_tokens=6, ignore_eos=True)
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    said = []
    for config in (None, ngram(num_drafts)):
        engine = make_rule_engine(echo, speculative_config=config, num_gpu_blocks_override=200)
        for number, prompt in enumerate(prompts):
            engine.add_request(str(number), prompt, greedy if number else beams)
        done = {output.request_id: output for output in drain(engine) if output.finished}
        said.append({name: [list(c.token_ids) for c in output.outputs] for name, output in done.items()})
        SEEN["beside beams"] += engine.scheduler.spec_decode_stats.num_accepted_tokens if config else 0
        assert_idle(engine)
    assert said[0] == said[1] and len(said[0]["0"]) == width


def test_drafts_were_accepted_beside_beams():
    assert SEEN["beside beams"] > 20
