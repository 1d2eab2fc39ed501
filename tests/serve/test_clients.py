"""Clients as people have them, each in a process of its own: the scripts of clients/ run unchanged against the server.

openai 0.28 and langchain-openai are not in the test extra (the first excludes today's openai). To run them: install
them into an environment of their own, and name its interpreter in OPENAI_028_PYTHON or LANGCHAIN_PYTHON.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "clients"
NAMES = ("tutor", "meta-llama/Llama-2-7b-chat-hf", "Qwen/Qwen2-7B-Instruct")


def run(command, real):
    done = subprocess.run([*command, real.url, *NAMES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.rstrip().endswith("done")
    return done.stdout


def interpreter(variable, test):
    """The interpreter that has the client, or a skip that says how to get one."""
    python = os.environ.get(variable, sys.executable)
    known = subprocess.run([python, "-c", test], capture_output=True, check=False)
    if known.returncode != 0:
        pytest.skip(f"needs an environment with the client: name its interpreter in {variable}")
    return python


def test_openai_of_today(real):
    told = run([sys.executable, SCRIPTS / "openai_now.py"], real)
    assert "text only" in told and "cn-lora" in told and "tools are not served" in told


def test_openai_028(real):
    test = "import openai; assert openai.__version__.startswith('0.28')"
    run([interpreter("OPENAI_028_PYTHON", test), SCRIPTS / "openai_028.py"], real)


def test_langchain(real):
    test = "import langchain_openai"
    run([interpreter("LANGCHAIN_PYTHON", test), SCRIPTS / "langchain_now.py"], real)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(real):
    run(["sh", SCRIPTS / "with_curl.sh"], real)
