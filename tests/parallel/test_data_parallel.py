"""Two engines behind one door. Here both run in this process; with workers they run in test_same_answer.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minivllm import LLM, SamplingParams, data_parallel
from minivllm.engine import LLMEngine


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
