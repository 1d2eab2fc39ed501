"""`bench profile`: operations are counted, held against the machine, and a verdict comes of it."""

import argparse
import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from minivllm.bench import profile_step
from minivllm.bench.profile_step import summary, verdict


@pytest.mark.parametrize(
    ("of_compute", "of_memory", "expected"),
    [(0.6, 0.1, "arithmetic"), (0.1, 0.6, "memory"), (0.3, 0.3, "neither"), (0.0, 0.0, "neither")],
)
def test_the_nearest_limit_is_named_unless_both_are_far(of_compute, of_memory, expected):
    assert verdict(of_compute, of_memory).startswith(expected)


def test_shares_are_those_of_a_known_product():
    x = torch.ones(64, 32)
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
        x @ torch.ones(32, 16)
    row = summary("known", 64, profiler, 0.5, 1000, {"gflops": 1e-3, "gigabytes": 1e-5})
    operations = 2 * 64 * 32 * 16
    assert row["flops_per_byte"] == operations / 1000
    assert row["share_of_compute"] == pytest.approx(operations / 0.5 / 1e6)
    assert row["share_of_memory"] == pytest.approx(1000 / 0.5 / 1e4)
    assert any(operator["name"] == "aten::mm" for operator in row["operators"])


def test_the_shipped_model_is_profiled_and_traced(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_step, "machine_gflops", lambda: 100.0)
    monkeypatch.setattr(profile_step, "machine_gigabytes", lambda: 10.0)
    parser = argparse.ArgumentParser()
    profile_step.add_arguments(parser)
    trace = tmp_path / "prompt.json"
    arguments = ["--tiny", "--prompt", "24", "--batch-sizes", "2", "--trace", str(trace), "--note", "a test"]
    result = profile_step.run(parser.parse_args(arguments))
    prompt, decode = result["rows"]
    assert (prompt["tokens"], decode["tokens"]) == (24, 2) and result["note"] == "a test"
    assert prompt["flops_per_byte"] > 5 * decode["flops_per_byte"] > 0
    assert json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
