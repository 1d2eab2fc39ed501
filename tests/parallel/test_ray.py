"""Ray as the executor, with a real local Ray; and the sentence where it is not installed."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minivllm import LLM
from minivllm.worker.errors import WorkerError

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason='needs Ray: pip install "minivllm[ray]"')
ROOT = Path(__file__).parents[2]
SIZES = {"tensor_parallel_size": 2, "pipeline_parallel_size": 1, "distributed_executor_backend": "ray"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray

    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": variables},
        object_store_memory=80 * 2**20,
    )
    yield ray
    ray.shutdown()


@needs_ray
def test_ray_says_what_one_process_says_and_tells_of_a_dead_actor(
    cluster, models, expected, ask, small_engine
):
    llm = LLM(str(models["qwen3"]), **small_engine[1], **SIZES)
    said = ask(llm)
    assert [one.token_ids for one in said] == [one.token_ids for one in expected["qwen3"]]
    assert [report.rank for report in llm.llm_engine.executor.report()] == [0, 1]
    llm.llm_engine.check_health()
    cluster.kill(llm.llm_engine.executor._actors[1])
    start = time.monotonic()
    with pytest.raises(WorkerError, match="a worker is gone"):
        ask(llm)
    with pytest.raises(WorkerError, match="a worker is gone"):
        llm.llm_engine.check_health()
    assert time.monotonic() - start < 20
    llm.llm_engine.shutdown()


@needs_ray
def test_more_ranks_than_the_cluster_has_is_a_sentence(cluster, models, small_engine):
    with pytest.raises(ValueError, match="ask for 4 ranks, and the Ray cluster has 2 CPUs"):
        LLM(str(models["qwen3"]), **small_engine[1], **SIZES | {"pipeline_parallel_size": 2})


def test_without_ray_a_sentence_says_how_to_get_it(models, small_engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'needs Ray: pip install "minivllm\[ray\]"'):
        LLM(str(models["qwen3"]), **small_engine[1], **SIZES)
