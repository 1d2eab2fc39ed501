"""The measurements that need a GPU say so; perplexity is what the formula says."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from minivllm.bench.quantization import perplexity
from minivllm.zoo.rows import Row


@pytest.mark.parametrize("command", ["kernels", "decode-floor"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_clear_sentence(command):
    done = subprocess.run(
        [sys.executable, "-m", "minivllm.bench", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == f"bench {command}: needs a CUDA device, and torch sees none here."


class Uniform:
    """Gives the n-th token of a prompt the probability 1 / (n + 1)."""

    def generate(self, prompts, params, use_tqdm):
        assert params.prompt_logprobs == 0
        for prompt in prompts:
            entries = [
                {token: SimpleNamespace(logprob=-math.log(n + 1))}
                for n, token in enumerate(prompt["prompt_token_ids"])
            ]
            yield SimpleNamespace(prompt_logprobs=[None, *entries[1:]])


def test_perplexity_is_the_geometric_mean_over_answers_only():
    rows = [Row([5, 6, 7, 8], ["", "", "glossary", "glossary"]), Row([9, 9], ["text", "text"])]
    # Answers: the tokens at 2 and 3 of the first row, and at 1 of the second (its first has no probability).
    assert perplexity(Uniform(), rows) == pytest.approx((3 * 4 * 2) ** (1 / 3))
