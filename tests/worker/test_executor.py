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


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(ValueError, match="'cuda:1' was asked for, but torch sees no CUDA device here"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == CPU


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
