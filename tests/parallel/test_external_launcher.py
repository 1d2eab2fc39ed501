"""What a wrong launch is told, and what is said when a launched rank dies. A right one runs in test_two_nodes.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from minivllm import LLM
from minivllm.worker import external_executor

ROOT = Path(__file__).parents[2]
SECONDS = 60
SCRIPT = """
import json, sys, time
from minivllm import LLM, SamplingParams
from minivllm.worker.errors import WorkerError

model, engine = map(json.loads, sys.argv[1:])
llm = LLM(model, distributed_executor_backend="external_launcher", pipeline_parallel_size=2, **engine)
print(*(report.pid for report in llm.llm_engine.executor.report()), flush=True)
sys.stdin.readline()  # the other rank has been killed
start = time.monotonic()
for _ in range(2):
    try:
        llm.generate([[1, 2, 3], [4, 5]], SamplingParams(max_tokens=8), use_tqdm=False)
    except WorkerError as error:
        print("told:", str(error).partition(":")[0])
try:
    llm.llm_engine.check_health()
except WorkerError:
    print("unhealthy")
llm.llm_engine.shutdown()
print(time.monotonic() - start < 10)
"""
LAUNCH = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def launch(monkeypatch, model, sizes, **environment):
    for name, value in {**LAUNCH, **environment}.items():
        monkeypatch.setenv(name, value)
    LLM(str(model), distributed_executor_backend="external_launcher", num_gpu_blocks_override=20, **sizes)


@pytest.fixture
def no_meeting(monkeypatch):
    """What can be told before the ranks meet is told before: they would wait for one that never comes."""
    monkeypatch.setattr(external_executor, "_meet", lambda backend: pytest.fail("they have met"))


def test_without_a_launcher(models, monkeypatch):
    for name in LAUNCH:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"needs a launcher such as torchrun, which sets RANK, WORLD_SIZE"):
        LLM(
            str(models["qwen3"]), distributed_executor_backend="external_launcher", num_gpu_blocks_override=20
        )


def test_a_wrong_number_of_processes(models, monkeypatch, no_meeting):
    sentence = (
        "started 2 processes, and tensor_parallel_size 2 x pipeline_parallel_size 2 asks for 4: they must be"
    )
    with pytest.raises(ValueError, match=sentence):
        launch(monkeypatch, models["qwen3"], {"tensor_parallel_size": 2, "pipeline_parallel_size": 2})


def test_no_data_parallelism(models, monkeypatch, no_meeting):
    with pytest.raises(ValueError, match="data_parallel_size must be 1 with external_launcher"):
        launch(monkeypatch, models["qwen3"], {"tensor_parallel_size": 2, "data_parallel_size": 2})


def test_a_port_in_use(models, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"cannot meet at 127.0.0.1:{port} .*Choose a free port"
        ) as caught:
            launch(monkeypatch, models["qwen3"], {"tensor_parallel_size": 2}, MASTER_PORT=str(port))
    assert "\n" not in str(caught.value)


def test_rank_0_tells_of_a_rank_that_was_killed_and_comes_to_an_end(models, small_engine):
    """The launcher is this test: two processes on one machine, told by the environment who they are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", SCRIPT, json.dumps(str(models["qwen3"])), json.dumps(small_engine[1])]
    shared = {
        **os.environ,
        **LAUNCH,
        "MASTER_PORT": port,
        "PYTHONPATH": str(ROOT),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            command,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        assert ranks[0].stdout.readline().split() == [str(process.pid) for process in ranks]
        os.kill(ranks[1].pid, signal.SIGKILL)
        ranks[1].wait(SECONDS)
        said, _ = ranks[0].communicate("go\n", timeout=SECONDS)
    finally:
        for process in ranks:
            process.kill()
    told = "told: a step has failed here, or a rank is gone"
    assert said.splitlines() == [told, told, "unhealthy", "True"]
    assert ranks[0].returncode == 0
