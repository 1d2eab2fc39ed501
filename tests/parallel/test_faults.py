"""A worker that dies takes the engine with it: at once, with a sentence, and without leaving anybody behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from minivllm.worker.errors import WorkerError

ONE_WORKER = {"distributed_executor_backend": "mp"}
SECONDS = 10  # in which everything must be over; gloo's own timeout is minutes


def assert_gone(processes):
    deadline = time.monotonic() + SECONDS
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < deadline, "a worker outlived its peer"
        time.sleep(0.02)


def test_killed_in_the_middle_of_a_step(models, make_llm, ask):
    llm = make_llm(models["qwen3"], tensor_parallel_size=2)
    executor = llm.llm_engine.executor
    os.kill(executor.pids[1], signal.SIGSTOP)  # the other rank now waits for it, in its first sum
    killer = threading.Timer(0.3, os.kill, (executor.pids[1], signal.SIGKILL))
    killer.start()
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"worker 1 \(process \d+\) was ended by SIGKILL"):
        ask(llm)
    assert time.monotonic() - start < SECONDS
    assert_gone(executor._processes)
    with pytest.raises(WorkerError, match="SIGKILL"):
        ask(llm)  # and not a hang


def test_killed_while_nothing_runs(models, make_llm):
    engine = make_llm(models["qwen3"], **ONE_WORKER).llm_engine
    engine.check_health()
    os.kill(engine.executor.pids[0], signal.SIGKILL)
    deadline = time.monotonic() + SECONDS
    with pytest.raises(WorkerError, match=r"worker 0 \(process \d+\) was ended by SIGKILL"):
        while time.monotonic() < deadline:
            engine.check_health()
            time.sleep(0.02)
    assert_gone(engine.executor._processes)


def test_a_mistake_that_only_a_worker_finds_is_a_sentence(models, make_llm):
    with pytest.raises(ValueError, match="^a KV cache of 10 bytes holds 0 blocks") as caught:
        make_llm(models["llama"], num_gpu_blocks_override=None, kv_cache_memory_bytes=10, **ONE_WORKER)
    assert "\n" not in str(caught.value)


def test_a_failing_step_says_where(models, make_llm, monkeypatch):
    """A broken order from the driver stands for any bug: the worker's traceback reaches the caller."""
    llm = make_llm(models["llama"], **ONE_WORKER)
    schedule = llm.llm_engine.scheduler.schedule

    def without_new_requests():
        return replace(schedule(), new_requests=[])

    monkeypatch.setattr(llm.llm_engine.scheduler, "schedule", without_new_requests)
    with pytest.raises(WorkerError, match=r"(?s)worker \d failed:\nTraceback.*KeyError"):
        llm.generate([[1, 2, 3]], use_tqdm=False)
    assert_gone(llm.llm_engine.executor._processes)


def test_what_cannot_be_divided_is_refused_before_any_process_starts(models, make_llm, pool):
    before = list(pool.idle)
    for sizes, sentence in [
        ({"tensor_parallel_size": 3}, r"tensor_parallel_size \(3\) must divide .* it can be 1, 2, 4$"),
        ({"pipeline_parallel_size": 4}, r"pipeline_parallel_size \(4\) must be at most .* layers \(3\)"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            make_llm(models["llama"], **sizes)
    assert pool.idle == before
