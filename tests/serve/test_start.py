"""What a start of the server loads: no library that takes seconds and that a model like ours does not need.

Libraries are counted, and not seconds, which depend on the machine. `python -m minivllm.bench startup` measures those.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_NEEDED = (
    "transformers",
    "huggingface_hub",
    "triton",
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "llguidance",
    "matplotlib",
    "pandas",
    "scipy",
    "PIL",
    "IPython",
    "minivllm.course.catalogue",
    "minivllm.bench",
)
# The command as it is, but instead of waiting for clients it asks itself, and ends.
START = """
import json, sys
from fastapi.testclient import TestClient
import minivllm.serve.server
from minivllm.serve.cli import main

def ask(app, *_):
    client = TestClient(app)
    assert client.get("/health").status_code == 200
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, **MORE}
    answer = client.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 200, answer.text
    print(json.dumps(sorted(sys.modules)))

minivllm.serve.server.run_server = ask
raise SystemExit(main(["tutor-draft", "--port", "0", "--device", "cpu", "--num-gpu-blocks-override", "64"]))
"""


def loaded_by_a_start(more):
    program = START.replace("MORE", repr(more))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_start_and_a_conversation_load_no_library_that_they_do_not_need():
    loaded = loaded_by_a_start({})
    assert loaded.intersection(NOT_NEEDED) == set()
    assert {"torch", "fastapi", "tokenizers", "minivllm.serve.app"} <= loaded  # the probe sees what is there


@pytest.mark.parametrize("more", [{"response_format": {"type": "json_object"}}])
def test_a_grammar_loads_what_reads_grammars_and_no_more(more):
    assert loaded_by_a_start(more).intersection(NOT_NEEDED) == {"llguidance"}
