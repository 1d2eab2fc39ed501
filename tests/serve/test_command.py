"""`minivllm COMMAND`: the words of the `vllm` command lead to our modules."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from minivllm.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "minivllm", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_commands_lead_to_their_modules():
    assert {"serve", "bench", "run-batch"} <= set(COMMANDS)  # those that vLLM has, too
    for module, what in COMMANDS.values():
        assert importlib.util.find_spec(module) is not None and what
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"minivllm": "minivllm.__main__:main"}


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["serve", "--help"], 0, "Serve a model over OpenAI's HTTP API"),
        (["run-batch", "-i", "nowhere.jsonl", "-o", "x"], 2, "there is no file nowhere.jsonl"),
        (["serve", "--enable-lora"], 2, "--enable-lora is not served"),
        (["--help"], 0, "run-batch"),
        ([], 0, "usage: minivllm COMMAND"),
        (["chat"], 2, "there is no command 'chat'"),
    ],
)
def test_a_command_does_what_its_module_does(words, status, said):
    done = run(*words)
    assert done.returncode == status and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
