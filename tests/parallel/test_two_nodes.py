"""torchrun over two nodes: two network namespaces, joined by a virtual cable, each with a loopback of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 120
SCRIPT = """
import json, sys
from minivllm import LLM, SamplingParams

model, sizes, engine, prompts = map(json.loads, sys.argv[1:])
llm = LLM(model, distributed_executor_backend="external_launcher", **engine, **sizes)
params = [SamplingParams(temperature=t, top_p=p, seed=5, max_tokens=8) for t, p in ((0, 1), (1, 0.9))]
said = [llm.generate(prompts, one, use_tqdm=False) for one in params]
reports = llm.llm_engine.executor.report()
llm.llm_engine.shutdown()
tokens = [[output.outputs[0].token_ids for output in outputs] for outputs in said]
print(json.dumps({"tokens": tokens, "parameters": [report.num_parameters for report in reports]}))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def nodes() -> Iterator[list[list[str]]]:
    """The command that runs a program on each of two nodes, 10.77.0.1 and 10.77.0.2."""
    names = [f"minivllm-{os.getpid()}-{node}" for node in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip(
            "link",
            "add",
            "cable",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            names[1],
        )
        for node, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{node}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def torchrun(node: int, *arguments: str) -> list[str]:
    flags = {
        "nnodes": 2,
        "node-rank": node,
        "nproc-per-node": 1,
        "master-addr": "10.77.0.1",
        "master-port": 29500,
    }
    options = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "torch.distributed.run", *options, *arguments]


@pytest.mark.system("root", "namespaces", "ip")
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"tensor_parallel_size": 2}, id="tp2"),
        pytest.param({"pipeline_parallel_size": 2}, id="pp2", marks=pytest.mark.slow),
    ],
)
def test_two_nodes_say_what_one_process_says(nodes, sizes, models, expected, small_engine, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    prompts, engine = small_engine
    values = [str(models["qwen2"]), sizes, engine, prompts]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*enter, *torchrun(node, str(script), *map(json.dumps, values))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node, enter in enumerate(nodes)
    ]
    try:
        results = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[1][0] == ""  # only rank 0 goes on in the script
    answer = json.loads(results[0][0].splitlines()[-1])
    greedy, sampled = ([one.token_ids for one in expected["qwen2"][first::2]] for first in (0, 1))
    assert answer["tokens"] == [greedy, sampled]
    assert len(answer["parameters"]) == 2
