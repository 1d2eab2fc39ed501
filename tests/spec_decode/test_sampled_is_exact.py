"""Sampled answers under speculation: as often as the model itself would say them, by chi-square on a running engine."""

import itertools
import math
import zlib
from collections import Counter
from functools import cache

import numpy as np
import pytest

from minivllm.sampling_params import SamplingParams

ALLOWED = [40, 41, 42]
NUM_REQUESTS = 1500
QUANTILE = 54.05  # of chi-square with 26 degrees of freedom: 0.1 % of correct engines come out above


def opinion(name):
    """Logits of a rule that has its own opinion on every context, and not too strong a one."""

    return lambda context: logits_behind(name, tuple(context[-2:]))


@cache
def logits_behind(name, last_two):
    seed = zlib.crc32(np.array([name, *last_two]).tobytes())
    return np.random.default_rng(seed).normal(0, 1.0, 296)


def allowed_opinion(context):
    """What a head thinks that has learned what is allowed; heads do not ask the sampling parameters."""
    logits = opinion(2)(context)
    return np.where(np.isin(np.arange(len(logits)), ALLOWED), logits, -np.inf)


def probability(text, prompt, params):
    """Of the model saying `text`, in plain Python: allowed tokens, then the presence penalty, then temperature."""
    total = 1.0
    for i, token in enumerate(text):
        logits = opinion(1)((*prompt, *text[:i]))
        weights = {
            t: math.exp((logits[t] - params.presence_penalty * (t in text[:i])) / params.temperature)
            for t in ALLOWED
        }
        total *= weights[token] / sum(weights.values())
    return total


@pytest.mark.parametrize("fields", [{"temperature": 1.0}, {"temperature": 0.7, "presence_penalty": 0.6}])
@pytest.mark.parametrize("method", ["plain", "ngram", "draft_model", "medusa"])
def test_every_text_comes_as_often_as_it_should(
    method, fields, make_rule_engine, make_rule_pair, make_rule_heads
):
    prompt = [40, 41, 42, 40, 40, 42, 41, 41, 40]
    room = {"max_num_seqs": 100, "max_num_batched_tokens": 1000, "num_gpu_blocks_override": 300}
    if method == "draft_model":
        engine = make_rule_pair(opinion(1), opinion(2), 2, **room)
    elif method == "medusa":
        engine = make_rule_heads(opinion(1), [allowed_opinion], 2, **room)
    else:
        ngram = {
            "method": "ngram",
            "num_speculative_tokens": 2,
            "prompt_lookup_min": 1,
            "prompt_lookup_max": 2,
        }
        engine = make_rule_engine(opinion(1), speculative_config=ngram if method == "ngram" else None, **room)
    params = SamplingParams(max_tokens=5, allowed_token_ids=ALLOWED, detokenize=False, **fields)
    for number in range(NUM_REQUESTS):
        engine.add_request(str(number), prompt, params)
    said = Counter()
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                said[tuple(output.outputs[0].token_ids[1:4])] += 1
    assert said.total() == NUM_REQUESTS
    expected = dict.fromkeys(itertools.product(ALLOWED, repeat=3), 0.0)
    for text in itertools.product(ALLOWED, repeat=4):
        expected[text[1:]] += NUM_REQUESTS * probability(text, prompt, params)
    statistic = sum((said[text] - count) ** 2 / count for text, count in expected.items())
    assert statistic < QUANTILE
    stats = engine.stats()
    if method != "plain":
        assert 0.2 < stats.num_accepted_tokens / stats.num_draft_tokens < 0.9


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_draft_model_that_agrees_is_always_right(temperature, make_rule_pair):
    """p = q: nothing is ever rejected, drawn or not, as each draft is held against what it was drawn from itself."""
    engine = make_rule_pair(opinion(1), opinion(1), 3)
    num_steps = 0
    for seed in range(3):
        params = SamplingParams(temperature=temperature, max_tokens=41, seed=seed, ignore_eos=True)
        engine.add_request(str(seed), [5, 6, 7 + seed], params)
    while engine.has_unfinished_requests():
        engine.step()
        num_steps += 1
    stats = engine.stats()
    assert stats.num_accepted_tokens == stats.num_draft_tokens == 90 and num_steps == 11


def test_a_seed_says_the_same_again(make_rule_pair, answer):
    params = SamplingParams(temperature=1.0, max_tokens=30, seed=11, ignore_eos=True)
    engine = make_rule_pair(opinion(1), opinion(2), 3, enable_prefix_caching=False)
    first, second = (answer(engine, [9, 8, 7], params).outputs[0].token_ids for _ in range(2))
    assert first == second
    other = answer(engine, [9, 8, 7], SamplingParams(temperature=1.0, max_tokens=30, seed=12)).outputs[0]
    assert other.token_ids != first
