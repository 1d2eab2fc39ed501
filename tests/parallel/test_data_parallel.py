"""Two engines behind one door. Here both run in this process; with workers they run in test_same_answer.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minivllm import LLM, SamplingParams, data_parallel
from minivllm.engine import LLMEngine
from minivllm.sampling_params import BeamSearchParams


@pytest.fixture
def llm(models, small_engine, monkeypatch) -> LLM:
    def replicas(config, parts):
        return [LLMEngine(replace(config, data_parallel_size=1), parts, replica) for replica in range(2)]

    monkeypatch.setattr(data_parallel, "_start_replicas", replicas)
    return LLM(str(models["qwen3"]), **small_engine[1], data_parallel_size=2)


def test_work_is_spread_and_answers_come_in_order(llm, ask, expected):
    said = ask(llm)
    assert [one.token_ids for one in said] == [one.token_ids for one in expected["qwen3"]]
    shares = [sum(replica.stats().finished.values()) for replica in llm.llm_engine.replicas]
    assert sum(shares) == len(said) and min(shares) > 0
    stats = llm.llm_engine.stats()
    assert stats.finished == {"length": len(said)} and stats.num_generation_tokens == 8 * len(said)
    assert stats.num_gpu_blocks == 2 * 24 and stats.kv_cache_usage == 0
    assert not llm.llm_engine._home


def test_a_shared_prefix_stays_on_one_replica(llm):
    prefix = list(range(20))
    params = SamplingParams(max_tokens=2)
    outputs = [llm.generate([[*prefix, 50 + i]], params, use_tqdm=False)[0] for i in range(3)]
    assert [output.num_cached_tokens for output in outputs] == [0, 20, 20]
    other = llm.generate([[9] * 20], params, use_tqdm=False)[0]
    assert other.num_cached_tokens == 0
    llm.llm_engine.reset_prefix_cache()
    assert llm.generate([[*prefix, 1]], params, use_tqdm=False)[0].num_cached_tokens == 0


def test_ids_are_in_use_on_either_replica_and_free_again_afterwards(llm):
    engine = llm.llm_engine
    engine.add_request("a", [1] * 9)
    engine.add_request("b", [2] * 9)
    assert len({id(replica) for replica in engine._home.values()}) == 2
    for request_id in ("a", "b"):
        with pytest.raises(ValueError, match=f"request_id '{request_id}' is in use"):
            engine.add_request(request_id, [3])
    engine.step()
    engine.abort_request(["a", "nobody"])
    engine.add_request("a", [1] * 9)
    while engine.has_unfinished_requests():
        engine.step()
    engine.abort_request("b")  # over already
    assert not engine._home and engine.stats().kv_cache_usage == 0


def test_a_refused_request_leaves_nothing_behind(llm):
    with pytest.raises(ValueError, match="prompt is empty"):
        llm.llm_engine.add_request("a", [])
    llm.llm_engine.add_request("a", [1])
    llm.llm_engine.abort_request("a")


def test_requests_without_a_seed_differ_between_replicas(llm):
    params = SamplingParams(temperature=1, max_tokens=8)
    first, second = llm.generate([[1, 2, 3], [1, 2, 3]], params, use_tqdm=False)
    assert first.outputs[0].token_ids != second.outputs[0].token_ids


def test_choices_beams_and_embeddings_find_a_replica_each(llm, models, small_engine):
    prompts, engine = small_engine
    alone = LLM(str(models["qwen3"]), **engine)
    choices = SamplingParams(n=3, seed=1, max_tokens=6)
    beams = BeamSearchParams(beam_width=3, max_tokens=5)

    def said(one):
        sampled = one.generate(prompts, choices, use_tqdm=False)
        searched = one.beam_search(prompts, beams)
        return [[choice.token_ids for choice in output.outputs] for output in [*sampled, *searched]]

    assert said(llm) == said(alone)
    embedded = zip(llm.embed(prompts, use_tqdm=False), alone.embed(prompts, use_tqdm=False), strict=True)
    for mine, other in embedded:
        assert mine.outputs.embedding == pytest.approx(other.outputs.embedding, abs=1e-4)
    assert not llm.llm_engine._home and llm.llm_engine.stats().kv_cache_usage == 0


def test_a_burst_of_short_prompts_is_shared_evenly(llm):
    """Least-loaded: nothing is shared, so nothing speaks for either side."""
    for request in range(8):
        llm.llm_engine.add_request(str(request), [10 + request] * 9)
    homes = list(llm.llm_engine._home.values())
    assert [homes.count(replica) for replica in llm.llm_engine.replicas] == [4, 4]
    llm.llm_engine.abort_request(map(str, range(8)))
    assert not llm.llm_engine._home


def test_a_salt_reaches_the_router(llm):
    """Where the same prompt has been under another salt there is nothing to find, and the shorter queue wins."""
    engine = llm.llm_engine
    one_token = SamplingParams(max_tokens=1)
    engine.add_request("first", [7] * 20, one_token, cache_salt="x")
    while engine.has_unfinished_requests():
        engine.step()
    engine.add_request("load", [9] * 5, one_token)
    engine.add_request("other", [7] * 20, one_token, cache_salt="y")
    engine.add_request("same", [7] * 20, one_token, cache_salt="x")
    homes = [engine.replicas.index(engine._home[name]) for name in ("load", "other", "same")]
    assert homes == [0, 1, 0]


def test_the_cache_usage_is_the_mean(llm):
    engine = llm.llm_engine
    engine.add_request("a", [1] * 9)
    engine.add_request("b", [2] * 20)
    engine.step()
    first, second = (replica.stats().kv_cache_usage for replica in engine.replicas)
    assert 0 < first < second
    assert engine.stats().kv_cache_usage == pytest.approx((first + second) / 2)
