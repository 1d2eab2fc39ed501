"""What a wrong launch is told. A right one runs in test_two_nodes.py."""

from __future__ import annotations

import socket

import pytest

from minivllm import LLM

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


def test_without_a_launcher(models, monkeypatch):
    for name in LAUNCH:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"needs a launcher such as torchrun, which sets RANK, WORLD_SIZE"):
        LLM(
            str(models["qwen3"]), distributed_executor_backend="external_launcher", num_gpu_blocks_override=20
        )


def test_a_wrong_number_of_processes(models, monkeypatch):
    sentence = (
        "started 2 processes, and tensor_parallel_size 2 x pipeline_parallel_size 2 asks for 4: they must be"
    )
    with pytest.raises(ValueError, match=sentence):
        launch(monkeypatch, models["qwen3"], {"tensor_parallel_size": 2, "pipeline_parallel_size": 2})


def test_no_data_parallelism(models, monkeypatch):
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
