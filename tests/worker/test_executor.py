"""Which device and which type of numbers."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from minivllm import zoo
from minivllm.model_config import ModelConfig
from minivllm.worker.device import resolve_device, resolve_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n): torch believes that this machine has n CUDA devices."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_devices(gpus):
    gpus(0)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(ValueError, match="'cuda:1' was asked for, but torch sees no CUDA device here"):
        resolve_device("cuda:1")
    gpus(2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == resolve_device("cpu", local_rank=3) == CPU
    with pytest.raises(ValueError, match=r"^device 'cuda:2' was asked for, and torch sees 2 here"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_torch_takes_the_device_of_a_worker(name, gpus, monkeypatch):
    """`torch.cuda.set_device` refuses a device without an index, and only where there is a GPU."""
    gpus(2)
    chosen = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    torch.cuda.set_device(resolve_device(name))
    assert chosen == [1 if name == "cuda:1" else 0]


def test_each_rank_of_a_machine_takes_the_next_gpu(gpus):
    gpus(4)
    assert [resolve_device("auto", rank).index for rank in range(4)] == [0, 1, 2, 3]
    assert [resolve_device("cuda:2", rank).index for rank in range(2)] == [2, 3]
    with pytest.raises(
        ValueError, match=r"need at least 5 CUDA devices .* torch sees 4: lower tensor_parallel_size"
    ):
        resolve_device("auto", 4)
    with pytest.raises(ValueError, match=r"need at least 3 CUDA devices .* from cuda:2 on, and torch sees 4"):
        resolve_device("cuda:2", 2)


@pytest.mark.parametrize("name", ["meta", "mps", "nonesuch", "cuda:x", "cpu:"])
def test_unknown_devices_are_a_sentence(name):
    with pytest.raises(ValueError, match=r"device must be auto, cpu or cuda\[:index\], not "):
        resolve_device(name)


@pytest.mark.parametrize(
    "name, checkpoint, device, expected",
    [
        ("auto", "bfloat16", CPU, torch.float32),
        ("auto", "float32", CPU, torch.float32),
        ("auto", "float32", CUDA, torch.bfloat16),
        ("auto", "bfloat16", CUDA, torch.bfloat16),
        ("auto", "float16", CUDA, torch.float16),
        ("half", "float32", CPU, torch.float16),
        ("float16", "float32", CUDA, torch.float16),
        ("bfloat16", "float32", CPU, torch.bfloat16),
        ("float", "bfloat16", CUDA, torch.float32),
        ("float32", "bfloat16", CUDA, torch.float32),
    ],
)
def test_types(name, checkpoint, device, expected):
    assert resolve_dtype(name, SimpleNamespace(dtype=checkpoint, num_params=4e6), device) == expected


@pytest.mark.parametrize(
    "num_params, has_units, expected",
    [(600e6, True, torch.bfloat16), (600e6, False, torch.float32), (4e6, True, torch.float32)],
)
def test_auto_on_a_cpu_is_bfloat16_for_large_models_where_it_is_fast(
    monkeypatch, num_params, has_units, expected
):
    monkeypatch.setattr("minivllm.worker.device.has_bfloat16_units", lambda: has_units)
    assert resolve_dtype("auto", SimpleNamespace(dtype="float32", num_params=num_params), CPU) == expected


def test_the_number_of_weights_is_that_of_the_model():
    config = ModelConfig.from_pretrained(zoo.path("tutor"))
    with safe_open(zoo.path("tutor") / "model.safetensors", "pt") as weights:
        matrices = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    assert config.num_params == sum(math.prod(shape) for shape in matrices if len(shape) == 2)
