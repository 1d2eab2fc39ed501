"""A worker that dies takes the engine with it: at once, with a sentence, and without leaving anybody behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from minivllm.async_engine import AsyncLLMEngine
from minivllm.worker.errors import WorkerError

ONE_WORKER = {"distributed_executor_backend": "mp"}
SECONDS = 10  # in which everything must be over; gloo's own timeout is minutes


def assert_gone(processes):
    deadline = time.monotonic() + SECONDS
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < deadline, "a worker outlived its peer"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("sizes", "victim"),
    [
        pytest.param({"tensor_parallel_size": 2}, 1, id="tp2"),
        pytest.param({"pipeline_parallel_size": 2}, 0, id="first-stage"),
        pytest.param({"pipeline_parallel_size": 2}, 1, id="last-stage"),
        pytest.param({"data_parallel_size": 2}, 1, id="replica"),
    ],
)
def test_killed_in_the_middle_of_a_step(sizes, victim, models, make_llm, ask, in_time):
    llm = make_llm(models["qwen3"], **sizes)
    engines = getattr(llm.llm_engine, "replicas", [llm.llm_engine])
    pid = [pid for engine in engines for pid in engine.executor.pids][victim]
    os.kill(pid, signal.SIGSTOP)  # whoever needs it now waits for it
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    sentence = rf"worker \d \(process {pid}\) was ended by SIGKILL"
    with pytest.raises(WorkerError, match=sentence):
        in_time(lambda: ask(llm), SECONDS)
    assert_gone(engines[-1].executor._processes)
    with pytest.raises(WorkerError, match=sentence):
        llm.llm_engine.check_health()
    with pytest.raises(WorkerError, match=sentence):
        in_time(lambda: ask(llm), SECONDS)


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


def test_the_servers_engine_notices_a_death_while_nothing_runs(models, make_llm):
    """`/health` asks `dead_error`: what that answers is in tests/serve."""
    llm = make_llm(models["qwen3"], **ONE_WORKER)
    engine = AsyncLLMEngine(llm.llm_engine)
    assert engine.dead_error is None
    os.kill(llm.llm_engine.executor.pids[0], signal.SIGKILL)
    deadline = time.monotonic() + SECONDS
    while engine.dead_error is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert isinstance(engine.dead_error.__cause__, WorkerError)
    engine.shutdown()
    assert_gone(llm.llm_engine.executor._processes)


def test_no_worker_outlives_its_driver(models, make_llm, monkeypatch):
    """Nor in the middle of a step: rank 0 waits in a sum for rank 1, which is stopped, and nobody ends it."""
    engine = make_llm(models["qwen3"], tensor_parallel_size=2).llm_engine
    executor = engine.executor
    monkeypatch.setattr(executor, "_fail", lambda *_: None)  # a killed driver ends nobody
    os.kill(executor.pids[1], signal.SIGSTOP)
    engine.add_request("a", [1, 2, 3])
    engine.start_steps()
    time.sleep(0.3)
    for channel in executor._channels:
        channel.hang_up()  # as the system does when the driver is killed
    assert_gone(executor._processes[:1])
    os.kill(executor.pids[1], signal.SIGCONT)
    assert_gone(executor._processes)
    assert all(process.returncode >= 0 for process in executor._processes)  # each has ended by itself
    executor._error = WorkerError("hung up")  # the pool shall not have them back


def test_a_message_that_is_no_command_ends_the_worker(pool):
    """Were it passed over, the driver would wait for an answer for ever."""
    process, channel = pool.take()
    channel.send(b"rubbish")
    assert process.wait(SECONDS) == 1
    assert channel.receive() is None
    channel.close()


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
